import pytest

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import SCRATCH_VARIABLE
from torchscript_operator.serve.settings import Settings, traced


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()


def test_variables_override_by_type() -> None:
    settings = Settings.from_environment(
        {
            "TSM_SERVE_PORT": "1",
            "TSM_SERVE_LINGER_SECONDS": "0.5",
            "TSM_SERVE_LOG_PROBES": "true",
            SCRATCH_VARIABLE: "/x",
        }
    )
    assert (settings.port, settings.linger_seconds, settings.log_probes, settings.scratch) == (1, 0.5, True, "/x")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TSM_SERVE_PORT", "http"),
        ("TSM_SERVE_PORT", "-1"),
        ("TSM_SERVE_LINGER_SECONDS", "nan"),
        ("TSM_SERVE_DRAIN_SECONDS", "inf"),
        ("TSM_SERVE_LOG_PROBES", "yes"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(WorkerError, match=variable) as caught:
        Settings.from_environment({variable: value})
    assert caught.value.reason == FailureReason.INVALID_REQUEST


def test_a_pod_drains_within_its_grace_period() -> None:
    assert Settings().linger_seconds + Settings().drain_seconds < 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"TSM_SERVE_GRPC": "yes"}, "on, off or auto"),
        ({"TSM_SERVE_TLS_KEY_FILE": "/k"}, "go together"),
        ({"TSM_SERVE_TLS_CERTIFICATE_FILE": "/c"}, "go together"),
        ({"TSM_SERVE_TLS_CLIENT_AUTHORITY_FILE": "/a"}, "needs TSM_SERVE_TLS_CERTIFICATE_FILE"),
    ],
)
def test_values_that_do_not_go_together_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        Settings.from_environment(given)


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_opentelemetrys_own_variables_ask_for_traces(environment: dict[str, str], asked: bool) -> None:
    assert traced(environment) == asked
