"""What the C library does with memory that was freed (glibc's; others stay as they are), and the size of its pages.

This module imports nothing heavy: the command line reads it before PyTorch.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Variable of the environment that PyTorch reads when it is imported: whether large tensors get pages of 2 MiB."""


def _from_c_library(*names: str) -> list | None:
    """Functions of glibc; ``None`` with another C library, or on another system."""
    try:
        library = ctypes.CDLL(None)
        return [getattr(library, name) for name in names]
    except (AttributeError, OSError, TypeError):
        return None


def return_freed_memory() -> None:
    """Give the system back what lies unused between tensors that are still there."""
    if functions := _from_c_library("malloc_trim"):
        functions[0](0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """The C library keeps what is freed, and gives it back to the system at the end.

    A step on a CPU frees and takes the same few GB again and again. New pages from the system, each interrupted at its
    first touch, took 4 to 8% of it.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    functions = _from_c_library("mallopt", "malloc_trim")
    if functions is None:
        yield
        return
    mallopt, malloc_trim = functions
    for threshold in (trim_threshold, mmap_threshold):
        mallopt(threshold, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(trim_threshold, 2**26)  # where both would have come to by themselves
        mallopt(mmap_threshold, 2**25)
        malloc_trim(0)
