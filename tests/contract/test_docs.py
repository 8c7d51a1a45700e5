"""What the pages have a reader type where there is no cluster: files from a Hub, exports, proofs, reports, a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract import hub, tiny
from tests.contract.s3 import S3Server
from tests.contract.serving import answers
from tests.reader import Reader

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in place of all-MiniLM-L6-v2, with as many positions."""
    return tiny.write_sentence_model(tmp_path_factory.mktemp("source") / "all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def reader(source: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """With this model in a folder and on the Hub, and with AWS's variables for a server of S3."""
    folder = tmp_path_factory.mktemp("reader")
    own = {"XDG_DATA_HOME": folder / "data", "XDG_CACHE_HOME": folder / "cache", "HF_HOME": folder / "hub"}
    aws = {**s3.variables(""), "AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1"}
    with hub.serving(source, REPOSITORY) as served:
        # Any free port: 8080 may be taken.
        made = Reader(folder, {"tsm run": "tsm run --port 0"}, HF_ENDPOINT=served.endpoint, **own, **aws)
        (made.folder / "all-MiniLM-L6-v2").symlink_to(source)
        yield made


def test_model_runs_and_its_artifact_is_looked_at(reader: Reader, s3: S3Server) -> None:
    with reader.starts("tsm run examples/minilm.yaml --source ./all-MiniLM-L6-v2") as typed:
        answers(typed)
    (artifact,) = (reader.folder.parent / "data/torchscript-operator/artifacts").iterdir()
    assert artifact.name[:8] in reader.types(f"tsm inspect {artifact}")
    verified = reader.types(f"tsm verify {artifact}")
    assert "golden:b8-s128" in verified
    assert "gives eager's recorded outputs on this machine" in verified
    assert "Parity Passed" in reader.types(f"tsm report {artifact}")
    s3.upload_folder(artifact, f"torchscript/{artifact.name}", "my-bucket")
    assert "on this machine" in reader.types(f"tsm verify s3://my-bucket/torchscript/{artifact.name}")
    shown = "601c760fc83e839d3661bf3c0417a9cb9981d0d55293d874687ad0fcc3c25cb8"
    s3.upload_folder(artifact, f"prefix/{shown}", "bucket")
    report = reader.types(
        "tsm report s3://bucket/prefix/601c760fc83e839d3661bf3c0417a9cb9981d0d55293d874687ad0fcc3c25cb8"
    )
    assert "Parity Passed" in report


def test_model_of_the_hub_runs_and_is_exported_once(reader: Reader) -> None:
    with reader.starts("tsm run examples/least.yaml") as typed:
        answers(typed)
    with reader.starts("tsm export examples/least.yaml") as typed:
        assert "Exported before" in typed.ends()


def test_pickles_are_converted(tmp_path: Path) -> None:
    source = tiny.write_marian(tmp_path / "opus", tiny.write_sentencepiece)
    with hub.serving(source, "Helsinki-NLP/opus-mt-en-de") as served:
        reader = Reader(tmp_path, HF_ENDPOINT=served.endpoint, HF_HOME=tmp_path / "hub")
        with reader.starts(
            'python -c "import transformers as t; \\\n'
            "[c.from_pretrained('Helsinki-NLP/opus-mt-en-de').save_pretrained('out')"
            ' for c in (t.MarianMTModel, t.MarianTokenizer)]"'
        ) as typed:
            typed.ends()
    assert {"config.json", "model.safetensors", "source.spm", "target.spm", "vocab.json"} <= {
        path.name for path in (reader.folder / "out").iterdir()
    }


def test_files_to_start_from(reader: Reader, source: Path, tmp_path: Path) -> None:
    with reader.starts("tsm init sentence-transformers/all-MiniLM-L6-v2") as typed:
        typed.ends()
    made = yaml.safe_load((reader.folder / "model.yaml").read_text())
    assert made["spec"]["source"]["huggingFace"] == {"repository": REPOSITORY, "revision": hub.COMMIT}
    (reader.folder / "model.yaml").unlink()
    with reader.starts("tsm init s3://models/minilm --from ./all-MiniLM-L6-v2") as typed:
        typed.ends()
    made = yaml.safe_load((reader.folder / "model.yaml").read_text())
    assert made["spec"]["source"]["s3"]["uri"] == "s3://models/minilm"
    with hub.serving(source, "owner/model") as served:
        other = Reader(tmp_path, HF_ENDPOINT=served.endpoint, HF_HOME=tmp_path / "hub")
        with other.starts(
            "tsm init owner/model --compiler torchscript --compiler neuronx -f models/inf2.yaml"
        ) as typed:
            typed.ends()
        made = yaml.safe_load((other.folder / "models/inf2.yaml").read_text())
    assert [target["compiler"] for target in made["spec"]["targets"]] == ["torchscript", "neuronx"]
