import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchscript_operator.artifact import digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert digest.of_value(value) == digest.of_value(dict(reversed(value.items())))


def test_list_order_matters() -> None:
    assert digest.of_value([1, 2]) != digest.of_value([2, 1])


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest.canonical_json(float("nan"))


@pytest.mark.parametrize("size", [0, 1, digest.CHUNK_BYTES, digest.CHUNK_BYTES + 1])
def test_file_digest_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)

    assert digest.of_file(tmp_path / "file") == hashlib.sha256(b"x" * size).hexdigest()
