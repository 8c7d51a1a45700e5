import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from torchscript_operator.artifact import logs

LOGGER = logging.getLogger("tests.logs")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def last(stream: io.StringIO) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return found


def test_a_line_is_an_object_with_the_fixed_and_the_extra_fields(stream: io.StringIO) -> None:
    logs.configure({"model": "ns/m"}, {}, stream=stream)
    LOGGER.info("two %s", "words", extra={"stage": "fetch"})
    line = last(stream)
    assert line["time"].endswith("Z")
    assert {key: line[key] for key in ("level", "message", "model", "stage")} == {
        "level": "info",
        "message": "two words",
        "model": "ns/m",
        "stage": "fetch",
    }


def test_an_exception_stays_on_one_line(stream: io.StringIO) -> None:
    logs.configure({}, {}, stream=stream)
    LOGGER.error("failed", exc_info=RuntimeError("a\nb"))
    assert "RuntimeError" in last(stream)["exception"]
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("name", logs.SECRET_VARIABLES)
def test_the_value_of_a_credential_never_appears(stream: io.StringIO, name: str) -> None:
    logs.configure({}, {name: "s3cr3tvalue"}, stream=stream)
    LOGGER.error("denied for %s", "s3cr3tvalue", extra={"url": "https://s3cr3tvalue@host"})
    assert "s3cr3tvalue" not in stream.getvalue()
    assert logs.REDACTED in last(stream)["message"]


def test_a_presigned_url_loses_what_grants_access(stream: io.StringIO) -> None:
    logs.configure({}, {}, stream=stream)
    LOGGER.error("GET https://host/key?X-Amz-Signature=abcdef&X-Amz-Date=1")
    assert "abcdef" not in stream.getvalue()
    assert "X-Amz-Date=1" in stream.getvalue()


def test_the_level_decides(stream: io.StringIO) -> None:
    logs.configure({}, {}, level="warning", stream=stream)
    LOGGER.info("quiet")
    assert stream.getvalue() == ""
