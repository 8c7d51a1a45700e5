"""Worker processes are followed line by line and never left behind."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from torchscript_operator.cli import children
from torchscript_operator.cli.children import Line
from torchscript_operator.cli.errors import InterruptedBySignal

PATIENT = 'import time\nprint(\'{"message": "started"}\', flush=True)\ntime.sleep(600)\n'
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PATIENT


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    (folder / "made_up_worker.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return "made_up_worker"


def follow(name: str, log: Path) -> tuple[int, list[Line]]:
    seen: list[Line] = []
    with children.worker(name, {"FROM_TEST": "yes"}, log) as running:
        return running.follow(seen.append), seen


def test_lines_and_exit_code_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'import sys\nprint(\'{"message": "one", "stage": "load"}\')\nsys.exit(84)\n'
    code, seen = follow(module(tmp_path, monkeypatch, text), tmp_path / "log")
    assert code == 84
    assert [(line.message, line.stage) for line in seen] == [("one", "load")]


def test_what_is_no_json_is_only_kept_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import sys\nprint('Traceback')\nprint('[1]')\nprint('error', file=sys.stderr)\n"
    _, seen = follow(module(tmp_path, monkeypatch, text), tmp_path / "logs" / "log")
    assert seen == []
    assert sorted((tmp_path / "logs" / "log").read_text().split()) == ["Traceback", "[1]", "error"]


def test_a_killed_worker_has_the_shells_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os\nos.kill(os.getpid(), 9)\n"
    assert follow(module(tmp_path, monkeypatch, text), tmp_path / "log")[0] == 137


def test_the_worker_gets_the_environment_and_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os, json\nprint(json.dumps({'message': os.environ['FROM_TEST'], 'stage': os.environ['KEPT']}))\n"
    monkeypatch.setenv("KEPT", "kept")
    _, seen = follow(module(tmp_path, monkeypatch, text), tmp_path / "log")
    assert [(line.message, line.stage) for line in seen] == [("yes", "kept")]


@pytest.mark.parametrize("text", [PATIENT, STUBBORN], ids=["patient", "stubborn"])
def test_an_error_here_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(children, "PATIENCE_SECONDS", 0.2)
    name = module(tmp_path, monkeypatch, text)
    with contextlib.suppress(ZeroDivisionError), children.worker(name, {}, tmp_path / "log") as running:
        next(running.lines())
        raise ZeroDivisionError
    assert running.process.returncode == -(signal.SIGKILL if text == STUBBORN else signal.SIGTERM)


@pytest.mark.parametrize("number", children.SIGNALS)
def test_a_signal_becomes_an_exception(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(InterruptedBySignal) as caught, children.interruptible():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before


def test_a_log_is_named_after_model_and_purpose() -> None:
    found = children.log_file(Path("/cache"), "team/minilm", "cpu", "export")
    assert found == Path("/cache/logs/team-minilm-cpu-export.log")
