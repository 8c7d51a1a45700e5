"""YAML is read as kubectl reads it, and every value knows its line."""

from typing import Any

import pytest

from torchscript_operator.cli import documents
from torchscript_operator.cli.errors import CliError


def value(text: str) -> Any:
    return documents.read(f"x: {text}", "f.yaml")[0].value["x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1.5", 1.5),
        ("'1e-4'", "1e-4"),
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("0x10", 16),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("4Gi", "4Gi"),
        ("500m", "500m"),
        ("true", True),
        ("~", None),
    ],
)
def test_scalars_are_what_kubectl_takes_them_for(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_a_value_has_the_line_of_its_key() -> None:
    document = documents.read("a:\n  b: 1\n  c:\n  - d: 2\n  - d: 3\n", "f.yaml")[0]
    assert document.line(("a", "c", 1, "d")) == 5


def test_a_missing_value_has_the_line_of_the_innermost_object() -> None:
    document = documents.read("a:\n  b:\n    c: 1\n", "f.yaml")[0]
    assert document.line(("a", "b", "missing", 3)) == 2


def test_lines_count_from_the_start_of_the_file() -> None:
    second = documents.read("a: 1\n---\n# a comment\nb: 1\n", "f.yaml")[1]
    assert second.line(("b",)) == 4


def test_empty_documents_are_left_out() -> None:
    assert [document.value for document in documents.read("---\n---\na: 1\n---\n", "f.yaml")] == [{"a": 1}]


def test_a_repeated_key_names_both_lines() -> None:
    with pytest.raises(CliError, match=r"f\.yaml:3: the key 'a' is on line 1 already"):
        documents.read("a: 1\nb: 2\na: 3\n", "f.yaml")


def test_a_repeated_key_deep_inside_is_found() -> None:
    with pytest.raises(CliError, match=r"f\.yaml:4: the key 'c'"):
        documents.read("a:\n- b:\n    c: 1\n    c: 2\n", "f.yaml")


def test_a_merged_key_is_no_repeated_one() -> None:
    text = "base: &base {a: 1}\nother:\n  <<: *base\n  a: 2\n"
    assert documents.read(text, "f.yaml")[0].value["other"] == {"a": 2}


def test_broken_yaml_names_its_line() -> None:
    with pytest.raises(CliError, match=r"f\.yaml:2: no valid YAML"):
        documents.read("a: 1\nb: c: d\n", "f.yaml")


def test_a_tab_is_explained() -> None:
    with pytest.raises(CliError) as caught:
        documents.read("a:\n\tb: 1\n", "f.yaml")
    assert "tabs" in caught.value.advice
