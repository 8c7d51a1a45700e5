"""The Git server of the tests: what is committed is what a client clones and pulls."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cluster.git_server import Repository, served_repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with served_repository(tmp_path / "served", "127.0.0.1") as found:
        yield found


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_commits_are_cloned_and_pulled_and_reverts_too(repository: Repository, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    first = repository.commit("Begin", {"a/model.yaml": "one\n"})
    git("clone", "--quiet", repository.url, str(clone))
    assert git("-C", str(clone), "rev-parse", "HEAD") == first
    second = repository.commit("Change", {"a/model.yaml": "two\n", "b.yaml": "new\n"})
    git("-C", str(clone), "pull", "--quiet", "--ff-only")
    assert git("-C", str(clone), "rev-parse", "HEAD") == second
    assert (clone / "a/model.yaml").read_text() == "two\n"
    third = repository.revert()
    git("-C", str(clone), "pull", "--quiet", "--ff-only")
    assert git("-C", str(clone), "rev-parse", "origin/main") == third
    assert (clone / "a/model.yaml").read_text() == "one\n"
    assert not (clone / "b.yaml").exists()


def test_files_are_deleted(repository: Repository) -> None:
    repository.commit("Begin", {"model.yaml": "one\n"})
    repository.commit("End", {"model.yaml": None})
    assert repository.git("ls-files") == ""


def test_only_the_repository_is_served(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Begin", {"model.yaml": "one\n"})
    other = subprocess.run(
        ["git", "clone", "--quiet", repository.url.replace("models", "other"), str(tmp_path / "other")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert other.returncode != 0
    assert "not found" in other.stderr
