"""`tsm` as a person runs it: a process, a file, a folder, and HTTP."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract import tiny
from tests.contract.s3 import S3Server

DEADLINE_SECONDS = 240
"""For an export on a busy machine; a quiet one needs ten seconds."""
TEXTS = ["Hello.", "The parcel came on Tuesday, but the box was empty."]
MODEL = """apiVersion: torchscript.dev/v1alpha1
kind: TorchScriptModel
metadata: {name: minilm}
spec:
  # Nothing listens there: the command line gives a folder in its place.
  source: {s3: {uri: "s3://models/minilm", endpoint: "http://127.0.0.1:9"}}
  task: feature-extraction
  inputs: {shapes: [{batch: 4, sequence: 16}]}
"""


@dataclass(frozen=True)
class Home:
    """A person's folders."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "data" / "torchscript-operator" / "artifacts"

    @property
    def file(self) -> Path:
        return self.folder / "model.yaml"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        folders = {"XDG_DATA_HOME": str(self.folder / "data"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return kept | folders | {"AWS_EC2_METADATA_DISABLED": "true"}

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "torchscript_operator.cli.main", *arguments]
        variables = self.environment | environment
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def tsm(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
        assert "Traceback" not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def write(self, **changes: str) -> None:
        text = MODEL
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)

    def key(self) -> str:
        return next(path.name for path in self.store.iterdir())


@dataclass
class Served:
    """A running `tsm run`."""

    process: "subprocess.Popen[str]"
    lines: list[str]
    """What it has said until it answered."""
    url: str

    def embeddings(self) -> Any:
        body = {"model": "minilm", "input": TEXTS}
        answer = httpx.post(f"{self.url}/v1/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        return [item["embedding"] for item in answer.json()["data"]]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode


@contextmanager
def running(home: Home, *arguments: str) -> Iterator[Served]:
    process = home.start("run", str(home.file), "--port", "0", *arguments)
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            if found := re.search(r"answers at (http://\S+)", line):
                yield Served(process, lines, found[1])
                break
        else:
            pytest.fail("\n".join(lines))
    finally:
        # SIGTERM, so that it ends its own child.
        process.terminate()
        process.communicate(timeout=DEADLINE_SECONDS)


def eager_embeddings(folder: Path) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    means = (tokens * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).numpy()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end
        # What another process does gives no event to wait for.
        time.sleep(0.05)


def alive(mark: str) -> list[str]:
    """Command lines of processes whose environment names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_text(errors="replace"):
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.write()
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Home:
    """A home whose store holds the tiny model's artifact."""
    made = Home(tmp_path_factory.mktemp("exported"))
    made.write()
    result = made.tsm("export", str(made.file), "--source", str(tiny_folder))
    assert result.returncode == 0, result.stderr
    return made


@pytest.fixture
def own(exported: Home, tmp_path: Path) -> Home:
    """A copy of it that may be changed."""
    shutil.copytree(exported.folder, tmp_path / "home")
    return Home(tmp_path / "home")


def test_run_serves_what_eager_computes_and_ends_with_ctrl_c(home: Home, minilm_folder: Path) -> None:
    import numpy as np

    expected = eager_embeddings(minilm_folder)
    with running(home, "--source", str(minilm_folder)) as served:
        assert np.abs(np.array(served.embeddings()) - expected).max() <= 1e-5
        assert served.end(signal.SIGINT) == 0
    stages = [line.split()[1] for line in served.lines if line.startswith("✓")]
    assert {"resolve", "load", "trace", "axes", "parity", "upload", "fetch", "replay", "warm-up"} <= set(stages)
    assert alive(str(home.folder)) == []

    with running(home, "--source", str(minilm_folder)) as again:
        assert any("Exported before" in line for line in again.lines)
        assert not any("Compiling" in line for line in again.lines)
        assert np.abs(np.array(again.embeddings()) - expected).max() <= 1e-5
    assert alive(str(home.folder)) == []


def test_the_printed_request_works(own: Home, tiny_folder: Path) -> None:
    with running(own, "--source", str(tiny_folder)) as served:
        assert served.process.stderr is not None
        command = ""
        for line in served.process.stderr:
            command += line
            if " -d " in line:
                break
        answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["data"][0]["object"] == "embedding"


def test_ctrl_c_during_an_export_leaves_nothing_behind(home: Home, minilm_folder: Path) -> None:
    process = home.start("export", str(home.file), "--source", str(minilm_folder))
    log = home.folder / "cache" / "torchscript-operator" / "logs" / "default-minilm-cpu-export.log"
    wait_for(lambda: log.exists() and '"stage": "load"' in log.read_text())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130
    assert "✗ load" in err
    assert "Traceback" not in err
    assert alive(str(home.folder)) == []
    assert [path.name for path in log.parents[1].iterdir()] == ["logs"]


def test_an_export_for_programs(own: Home, tiny_folder: Path) -> None:
    result = own.tsm("export", str(own.file), "--source", str(tiny_folder), "-o", "json")
    assert result.returncode == 0
    found = json.loads(result.stdout)["exports"]
    assert [(each["target"], each["succeeded"], each["cacheHit"]) for each in found] == [("cpu", True, True)]
    assert found[0]["artifact"]["uri"] == f"file://{own.store}/{own.key()}"


def test_a_source_that_is_missing_has_its_classes_exit_code(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = home.tsm("export", str(home.file), "--source", str(tmp_path / "empty"))
    assert result.returncode == 66
    assert "--source FOLDER" in result.stderr


def test_a_bad_file_is_refused_before_anything_runs(home: Home) -> None:
    home.write(**{"batch: 4": "batch: two"})
    result = home.tsm("run", str(home.file))
    assert result.returncode == 2
    assert f'{home.file}:8: spec.inputs.shapes[0].batch: must be a whole number, not "two".' in result.stderr


def test_verify_detects_a_flipped_byte(own: Home) -> None:
    file = next((own.store / own.key()).glob("*/model.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = own.tsm("verify", own.key()[:8], "-o", "json")
    assert result.returncode == 89
    assert json.loads(result.stdout)["failure"]["reason"] == "DigestMismatch"
    assert "model.pt has SHA-256" in result.stderr


def test_verify_holds_the_manifest_against_a_given_digest(exported: Home) -> None:
    result = exported.tsm("verify", exported.key(), "--digest", f"sha256:{'0' * 64}")
    assert result.returncode == 88


def test_verify_shows_how_far_a_replay_is_off(own: Home, exported: Home) -> None:
    """A manifest whose bounds nothing keeps, under its true digest: what another kind of CPU would see."""
    folder = own.store / own.key()
    manifest = json.loads((folder / "manifest.json").read_text())
    golden = next(entry for entry in manifest["files"] if entry["role"] == "golden")
    _shift(folder / golden["sha256"] / golden["name"])
    _publish_again(folder, manifest, golden)
    result = own.tsm("verify", own.key())
    assert result.returncode == 90
    assert "Failed" in result.stdout
    assert exported.key() == own.key()


def _shift(file: Path) -> None:
    """Move every recorded output by a tenth."""
    from safetensors.numpy import load_file, save_file

    save_file({name: array + 0.1 if "/outputs/" in name else array for name, array in load_file(file).items()}, file)


def _publish_again(folder: Path, manifest: dict[str, Any], golden: dict[str, Any]) -> None:
    from torchscript_operator.artifact import digest

    old = folder / golden["sha256"]
    golden["sha256"] = digest.of_file(old / golden["name"])
    golden["sizeBytes"] = (old / golden["name"]).stat().st_size
    old.rename(folder / golden["sha256"])
    encoded = digest.canonical_json(manifest)
    (folder / digest.of_bytes(encoded)).mkdir()
    (folder / digest.of_bytes(encoded) / "manifest.json").write_bytes(encoded)
    (folder / "manifest.json").write_bytes(encoded)


def test_an_artifact_in_s3_is_listed_and_verified(exported: Home, s3: S3Server) -> None:
    s3.upload_folder(exported.store, "cli")
    server = ("--endpoint", s3.endpoint, "--region", "us-east-1")
    credentials = s3.variables("")
    listed = exported.tsm("inspect", "s3://models/cli", *server, "-o", "json", **credentials)
    assert [row["key"] for row in json.loads(listed.stdout)["artifacts"]] == [exported.key()]
    verified = exported.tsm("verify", f"s3://models/cli/{exported.key()}", *server, **credentials)
    assert verified.returncode == 0, verified.stderr


def test_no_secret_is_in_the_log(home: Home, tmp_path: Path, s3: S3Server) -> None:
    tiny.write_tokenizer(tmp_path / "no-model")
    credentials = s3.variables("")
    where = ("--store", "s3://models/cli", "--endpoint", s3.endpoint)
    result = home.tsm("export", str(home.file), "--source", str(tmp_path / "no-model"), *where, **credentials)
    assert result.returncode == 65
    log = home.folder / "cache" / "torchscript-operator" / "logs" / "default-minilm-cpu-export.log"
    for secret in credentials.values():
        assert secret not in log.read_text() + result.stdout + result.stderr
