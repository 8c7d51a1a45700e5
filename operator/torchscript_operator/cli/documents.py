"""YAML as the API server's clients read it, and the line that each value stands on."""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from torchscript_operator.cli.errors import CliError

Path = tuple[str | int, ...]
"""Where a value lies: keys and list positions from the top of a document."""

_FLOAT, _INTEGER, _TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("float", "int", "timestamp"))


class _Loader(yaml.SafeLoader):
    """Takes 1e-4 for a number and 2026-01-01 for text, as kubectl does; PyYAML alone has them the other way round."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in {_FLOAT, _INTEGER, _TIMESTAMP}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INTEGER, re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN))$"),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    name: str
    """The file's name, for messages."""
    value: Any
    node: yaml.Node

    def line(self, path: Path) -> int:
        """Line of the value at a path, counted from 1; of the innermost object on the way where it is missing."""
        node, mark = self.node, self.node.start_mark
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
        return int(mark.line) + 1


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None


def read(text: str, name: str) -> list[Document]:
    """All documents of a text. CliError, with the line, for what is no YAML and for a key that is there twice."""
    loader = _Loader(text)
    documents = []
    try:
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                _check_keys(node, name)
                documents.append(Document(name, loader.construct_document(node), node))
    except yaml.MarkedYAMLError as error:
        line = f"{name}:{error.problem_mark.line + 1}" if error.problem_mark else name
        raise CliError(f"{line}: no valid YAML: {error.problem or error.context}.", advice=_advice(error)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise CliError(f"{name}: no valid YAML: {str(error).splitlines()[0]}.") from error
    finally:
        loader.dispose()
    return [document for document in documents if document.value is not None]


def _advice(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "'\\t'" in error.problem:
        return "Indent with spaces: YAML takes no tabs."
    return "Look at that line's indentation, colons and quotes."


def _check_keys(node: yaml.Node, name: str) -> None:
    """The API server's clients refuse what PyYAML lets the later key win."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    message = f"{name}:{line}: the key {key.value!r} is on line {seen[key.value]} already."
                    raise CliError(message, advice="Keep one of the two.")
                seen[key.value] = line
            _check_keys(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, name)
