"""What a URI on the command line means."""

from pathlib import Path

import pytest

from tests.unit import artifacts
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import FolderStore, publish
from torchscript_operator.cli import locations
from torchscript_operator.cli.errors import CliError

KEY, OTHER = "abcdef12" + "0" * 56, "abcdef34" + "0" * 56


def store_with(folder: Path, *keys: str) -> StoreLocation:
    entries = artifacts.write_files(folder / "files")
    for key in keys:
        publish(FolderStore(folder / "store"), artifacts.manifest(entries, key=key), folder / "files")
    return StoreLocation(uri=f"file://{folder}/store")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
        ("file:///a/b/", "file:///a/b"),
        ("/a/b c", "file:///a/b%20c"),
        ("/a/b/", "file:///a/b"),
    ],
)
def test_a_place_is_a_uri_or_a_path(text: str, expected: str) -> None:
    assert locations.location(text).uri == expected


def test_a_relative_path_counts_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert locations.location("build").uri == f"file://{tmp_path}/build"


def test_endpoint_and_region_go_with_s3() -> None:
    found = locations.location("s3://b", "http://s3:7070", "eu")
    assert (found.endpoint, found.region) == ("http://s3:7070", "eu")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(CliError, match="http://x is no place for artifacts"):
        locations.location("http://x")


def test_the_default_store_follows_the_desktops_rules() -> None:
    assert locations.default_store({"XDG_DATA_HOME": "/data"}) == Path("/data/torchscript-operator/artifacts")
    assert locations.default_store({"XDG_DATA_HOME": "relative"}) == locations.default_store({})


def test_an_artifact_is_found_by_its_folder(tmp_path: Path) -> None:
    root = store_with(tmp_path, KEY)
    place = locations.find(f"{tmp_path}/store/{KEY}", root)
    assert place.digest is not None
    assert place.digest.startswith("sha256:")
    assert place.location.uri == f"{root.uri}/{KEY}"


def test_an_artifact_is_found_by_the_beginning_of_its_key(tmp_path: Path) -> None:
    root = store_with(tmp_path, KEY, OTHER)
    assert locations.find("abcdef12", root).location.uri == f"{root.uri}/{KEY}"


def test_a_whole_key_needs_no_list(tmp_path: Path) -> None:
    root = store_with(tmp_path, KEY)
    assert locations.find(KEY, root).location.uri == f"{root.uri}/{KEY}"


def test_a_beginning_that_two_keys_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"2 keys of .* begin with abcdef"):
        locations.find("abcdef", store_with(tmp_path, KEY, OTHER))


def test_a_beginning_of_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"No key of .* begins with 999999"):
        locations.find("999999", store_with(tmp_path, KEY))


def test_a_folder_that_looks_like_a_key_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "abcdef12").mkdir()
    place = locations.find("abcdef12", store_with(tmp_path, KEY))
    assert place.location.uri == f"file://{tmp_path}/abcdef12"
    assert place.digest is None


def test_a_missing_folder_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="There is no folder") as caught:
        locations.find(str(tmp_path / "missing"), store_with(tmp_path))
    assert caught.value.exit_code == 88


def test_only_keys_with_a_manifest_or_a_report_are_listed(tmp_path: Path) -> None:
    store_with(tmp_path, KEY)
    store = FolderStore(tmp_path / "store")
    store.write_bytes(f"{OTHER}/report.json", b"{}")
    store.write_bytes(f"{'f' * 64}/{'0' * 64}/model.pt", b"half an upload")
    store.write_bytes("notes/manifest.json", b"{}")
    assert set(locations.keys(store)) == {KEY, OTHER}
