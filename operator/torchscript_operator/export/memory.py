"""Telling a lack of memory from other errors."""

PHRASES = ("can't allocate memory", "not enough memory", "std::bad_alloc", "cannot allocate memory")
"""How torch's CPU allocator and the operating system say it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what caused it, is a failed allocation."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or any(phrase in str(found).lower() for phrase in PHRASES):
            return True
        found = found.__cause__
    return False
