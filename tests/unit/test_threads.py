from pathlib import Path

import pytest

from torchscript_operator.artifact.threads import available_threads, compute_threads, cpu_limit


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def membership(folder: Path, text: str) -> Path:
    write(folder / "cgroup", text)
    return folder / "cgroup"


def test_version_2_at_the_root_of_a_namespace(tmp_path: Path) -> None:
    write(tmp_path / "cpu.max", "150000 100000\n")
    assert cpu_limit(tmp_path, membership(tmp_path, "0::/\n")) == 1.5


def test_version_2_takes_the_smallest_of_the_groups_above(tmp_path: Path) -> None:
    write(tmp_path / "pod/cpu.max", "200000 100000\n")
    write(tmp_path / "pod/container/cpu.max", "max 100000\n")
    assert cpu_limit(tmp_path, membership(tmp_path, "0::/pod/container\n")) == 2


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cpu,cpuacct/pod/cpu.cfs_quota_us", "400000\n")
    write(tmp_path / "cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n")
    assert cpu_limit(tmp_path, membership(tmp_path, "5:memory:/x\n3:cpu,cpuacct:/pod\n")) == 4


def test_version_1_at_the_root_of_a_namespace(tmp_path: Path) -> None:
    write(tmp_path / "cpu/cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_limit(tmp_path, membership(tmp_path, "1:cpu:/kubepods/pod1/abc\n0::/\n")) == 0.5


@pytest.mark.parametrize("text", ["max 100000", "", "nonsense", "-1 100000"])
def test_no_quota_is_no_limit(tmp_path: Path, text: str) -> None:
    write(tmp_path / "cpu.max", text)
    assert cpu_limit(tmp_path, membership(tmp_path, "0::/\n")) is None


def test_files_that_are_missing_are_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("limit", "available", "threads"), [(None, 4, 4), (0.5, 4, 1), (1.5, 4, 1), (3.0, 4, 3), (8.0, 4, 4)]
)
def test_threads_fit_under_the_limit(limit: float | None, available: int, threads: int) -> None:
    assert compute_threads(limit, available) == threads


def test_this_machine_has_at_least_one_thread() -> None:
    assert available_threads() >= 1
