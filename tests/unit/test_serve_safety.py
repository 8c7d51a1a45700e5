"""What the server must not be able to do, whatever an artifact or a client holds."""

import ast
from pathlib import Path

import pytest

import torchscript_operator

ROOT = Path(torchscript_operator.__file__).parent
FILES = sorted(path for room in ("serve", "artifact") for path in (ROOT / room).rglob("*.py"))
UNPICKLES = {("torch", "load"), ("np", "load"), ("joblib", "load"), ("yaml", "load")}
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_server_unpickles_nothing_and_starts_no_other_program(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {name.name.partition(".")[0] for name in node.names} & MODULES
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in MODULES
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in UNPICKLES
            assert (node.value.id, node.attr) not in {("os", "system"), ("os", "popen")}
