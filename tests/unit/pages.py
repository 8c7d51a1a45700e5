"""What the documentation's pages hold: commands as a shell splits them, and blocks with their files read in."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatch
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
COMMENTED = re.compile(r"^# {3,}(\S.*)$", re.MULTILINE)
"""A command in the comment at an example's top."""
EXAMPLES = tuple(sorted((ROOT / "examples").rglob("*.yaml")))
SEPARATORS = frozenset("|&;")
PROGRAMS = ("tsm", "kubectl", "helm", "make", "pip", "curl", "docker", "buildah", "echo", "python")
"""What a command in the middle of a sentence begins with."""
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b(?!=)")
"""A word in a command for which a reader writes one of their own."""
TESTS = tuple(sorted((ROOT / "tests").glob("*/test_*.py")))


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
    inline: bool = False
    """Named in a sentence, perhaps without all that it needs."""

    @property
    def line(self) -> str:
        """As it is typed."""
        return shlex.join(self.words)

    def is_shown_by(self, typed: tuple[str, ...]) -> bool:
        """Whether it was typed, with other words for placeholders; of one in a sentence, whether a longer one was."""
        if len(typed) < len(self.words) or (len(typed) > len(self.words) and not self.inline):
            return False
        return all(_pattern(word).fullmatch(given) for word, given in zip(self.words, typed, strict=False))

    def __str__(self) -> str:
        """As the name of a test."""
        return f"{self.page}: {self.line}"[:120]


def _pattern(word: str) -> re.Pattern[str]:
    """What a reader may type for a word."""
    return re.compile(r"\S+".join(re.escape(part) for part in PLACEHOLDER.split(word)), re.DOTALL)


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


def scripts(page: Path) -> Iterator[tuple[str, bool]]:
    """All that a page or an example would have a reader type, and whether it stands in a sentence."""
    text = page.read_text()
    if page in EXAMPLES:
        yield "\n".join(COMMENTED.findall(text)), False
        return
    for _, language, block in FENCE.findall(text):
        if language in {"sh", "shell"}:
            yield block, False
        elif language == "console":
            yield "\n".join(line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")), False
        elif language == "yaml":
            yield "\n".join(re.findall(r"^- run: (.+)$", block, re.MULTILINE)), False
    for indented in INDENTED.findall(FENCE.sub("", text)):
        yield indented, False
    for inline in INLINE.findall(FENCE.sub("", text)):
        # `tsm COMMAND` and the names of programs alone are no commands.
        if re.match(rf"({'|'.join(PROGRAMS)}) [a-z'-]", inline):
            # What may be left out is in brackets, what may be repeated has dots, and of two forms the first is taken.
            yield re.sub(r"(?<!\w)\[(\w+)\]|(\w+)\.\.\.|\|\w+", r"\1\2", inline).replace("...", ""), True


def everything() -> list[Command]:
    """Every command of every page and example, as often as it is there."""
    return [
        Command(page.relative_to(ROOT).as_posix(), words, inline)
        for page in (*PAGES, *EXAMPLES)
        for script, inline in scripts(page)
        for words in split(script)
    ]


EVERYTHING = everything()
COMMANDS = list({each.words: each for each in sorted(EVERYTHING, key=lambda each: not each.inline)}.values())
"""Each once: one that a block has, too, is that of the block."""


def of(*program: str) -> list[Command]:
    """The commands of one program."""
    return [command for command in COMMANDS if command.words[: len(program)] == program]


def select(pattern: str, *program: str) -> list[Command]:
    """The commands of one program in the blocks of some pages, by a pattern of their paths."""
    found = [each for each in EVERYTHING if fnmatch(each.page, pattern) and each.words[: len(program)] == program]
    return list({each.words: each for each in found if not each.inline}.values())


def _text(node: ast.expr) -> str | None:
    """A text in a test; what is only known as it runs may stand for a placeholder."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(each) or "x" for each in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def typed() -> set[tuple[str, ...]]:
    """What tests type: texts in `reader.types("…")` and `reader.starts("…")`, and what `pages.select("…")` selects."""
    found: set[tuple[str, ...]] = set()
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            texts = [text for each in node.args if (text := _text(each)) is not None]
            if node.func.attr in {"types", "starts"} and texts:
                found.update(split(texts[0]))
            elif node.func.attr == "select" and texts:
                found.update(command.words for command in select(*texts))
    return found
