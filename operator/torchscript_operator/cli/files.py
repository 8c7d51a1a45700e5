"""From a FILE argument to the model and target that were meant."""

import sys
from collections.abc import Sequence
from pathlib import Path

from torchscript_operator.api.v1alpha1 import KIND
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.cli import documents, validation
from torchscript_operator.cli.documents import Document
from torchscript_operator.cli.errors import CliError
from torchscript_operator.controller.model import Model

STANDARD_INPUT = "-"


def read_model(file: str, name: str | None) -> Model:
    """The model in a file, by its name where the file holds several. CliError for anything else."""
    found = [document for document in _documents(file) if _kind(document) == KIND]
    if name is not None:
        found = [document for document in found if _name(document) == name]
    if not found:
        which = f"no {KIND}" if name is None else f"no {KIND} named {name!r}"
        raise CliError(
            f"{file}: there is {which} in this file.", advice="examples/least.yaml is a model to start from."
        )
    if len(found) > 1:
        names = ", ".join(str(_name(document)) for document in found)
        raise CliError(f"{file}: there are {len(found)} models in this file: {names}.", advice="Choose with --name.")
    return validation.to_model(found[0])


def read_all(names: Sequence[str]) -> tuple[list[tuple[Model, bool]], list[CliError]]:
    """All models of files, folders and standard input, each with whether it names its namespace; and what is wrong.

    Other kinds of objects are passed over. In a folder every .yaml and .yml is read, below it too.
    """
    found: list[tuple[Model, bool]] = []
    wrong: list[CliError] = []
    for name in (each for given in names for each in _expanded(given)):
        try:
            listed = [document for document in _documents(name) if _kind(document) == KIND]
        except CliError as error:
            wrong.append(error)
            continue
        for document in listed:
            try:
                model = validation.to_model(document)
            except CliError as error:
                wrong.append(error)
            else:
                found.append((model, "namespace" in document.value["metadata"]))
    return found, wrong


def read_whole(names: Sequence[str]) -> list[Model]:
    """All models of files and folders. CliError where one of them is wrong."""
    found, wrong = read_all(names)
    if wrong:
        raise wrong[0]
    return [model for model, _ in found]


def _expanded(name: str) -> list[str]:
    if name == STANDARD_INPUT or not Path(name).is_dir():
        return [name]
    return sorted(str(path) for path in Path(name).rglob("*.y*ml") if path.suffix in {".yaml", ".yml"})


def chosen_targets(model: Model, name: str | None) -> list[Target]:
    """The target of that name, or all of them. CliError when there is none of that name."""
    if name is None:
        return list(model.spec.targets)
    found = [target for target in model.spec.targets if target.name == name]
    if not found:
        known = ", ".join(target.name for target in model.spec.targets)
        raise CliError(f"{model.name} has no target {name!r}.", advice=f"Its targets: {known}.")
    return found


def served_target(model: Model, name: str | None) -> Target:
    """The target of that name, or the first of those that the model wants served, or the first of all."""
    if name is None and model.served:
        name = model.served[0]
    return chosen_targets(model, name)[0]


def _documents(file: str) -> list[Document]:
    try:
        text = sys.stdin.read() if file == STANDARD_INPUT else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CliError(f"{file}: this is no text in UTF-8.") from error
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}.") from error
    return documents.read(text, "standard input" if file == STANDARD_INPUT else file)


def _kind(document: Document) -> str | None:
    return document.value.get("kind") if isinstance(document.value, dict) else None


def _name(document: Document) -> str | None:
    metadata = document.value.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None
