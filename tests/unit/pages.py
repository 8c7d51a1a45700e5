"""What the documentation's pages hold: commands as a shell splits them, and blocks with their files read in."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CHART_README = ROOT / "charts/torchscript-operator/README.md"
READMES = (CHART_README, *sorted((ROOT / "examples").rglob("README.md")), *sorted((ROOT / "images").rglob("README.md")))
PAGES = (ROOT / "README.md", *READMES, *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4,}((?:kubectl|helm|tsm|make|docker) .+)$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
SEPARATORS = frozenset("|&;")
PROGRAMS = ("tsm", "kubectl", "helm", "make")
"""What a command in the middle of a sentence begins with."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    language: str
    text: str

    @property
    def included(self) -> tuple[str, ...]:
        """Files that are read in, relative to the root."""
        return tuple(INCLUDED.findall(self.text))

    @property
    def whole(self) -> str:
        """The text with these files in their places."""
        return INCLUDED.sub(lambda found: (ROOT / found[1]).read_text(), self.text)


@dataclass(frozen=True)
class Command:
    """A program and its arguments."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        """As the name of a test."""
        return f"{self.page}: {shlex.join(self.words)}"[:120]


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in some languages."""
    found = [Block(page, match[2], match[3]) for page in PAGES for match in FENCE.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


def split(text: str) -> Iterator[tuple[str, ...]]:
    """The commands of a script: continued lines joined, pipelines and lists apart, comments and variables left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= SEPARATORS:
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield tuple(words)
                words = []
            else:
                words.append(word)


def scripts(page: Path) -> Iterator[str]:
    """All that a page would have a reader type."""
    text = page.read_text()
    for _, language, block in FENCE.findall(text):
        if language in {"sh", "shell"}:
            yield block
        elif language == "console":
            yield "\n".join(line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))
        elif language == "yaml":
            yield "\n".join(re.findall(r"^- run: (.+)$", block, re.MULTILINE))
    yield from INDENTED.findall(FENCE.sub("", text))
    for inline in INLINE.findall(FENCE.sub("", text)):
        # `tsm COMMAND` and the names of programs alone are no commands.
        if re.match(rf"({'|'.join(PROGRAMS)}) [a-z-]", inline):
            # What may be left out is in brackets, what may be repeated has dots, and of two forms the first is taken.
            yield re.sub(r"\[(\w+)\]|(\w+)\.\.\.|\|\w+", r"\1\2", inline).replace("...", "")


def commands() -> list[Command]:
    """Every command of every page, each once."""
    found = [
        Command(page.relative_to(ROOT).as_posix(), words)
        for page in PAGES
        for script in scripts(page)
        for words in split(script)
    ]
    return list({command.words: command for command in found}.values())


COMMANDS = commands()


def of(*program: str) -> list[Command]:
    """The commands of one program."""
    return [command for command in COMMANDS if command.words[: len(program)] == program]
