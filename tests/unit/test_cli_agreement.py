"""What the API server takes and refuses, `tsm` takes and refuses: the cases are those of the test on a real one."""

import pytest
import yaml

from tests.integration.test_crd import REFUSED, S3, VALID
from torchscript_operator.cli import documents, validation
from torchscript_operator.cli.errors import CliError

API_SERVERS_OWN_WORDS = ("Unsupported value", "Duplicate value")


def check(spec: dict[str, object]) -> None:
    body = {
        "apiVersion": "torchscript.dev/v1alpha1",
        "kind": "TorchScriptModel",
        "metadata": {"name": "minilm"},
        "spec": {"source": S3, "task": "feature-extraction", **spec},
    }
    validation.to_model(documents.read(yaml.safe_dump(body), "f.yaml")[0])


@pytest.mark.parametrize("case", VALID)
def test_what_the_api_server_takes_is_valid(case: str) -> None:
    check(VALID[case])


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_api_server_refuses_is_refused(case: str) -> None:
    spec, message = REFUSED[case]
    with pytest.raises(CliError) as caught:
        check(spec)
    if not any(words in message for words in API_SERVERS_OWN_WORDS):
        assert message in caught.value.message
