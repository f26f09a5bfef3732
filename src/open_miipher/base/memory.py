"""What the C library does with memory that was freed."""

import ctypes
import platform
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt, in malloc.h
_LARGEST_BLOCK = 2**30
_LARGEST_REST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have glibc keep the memory of tensors that are freed; other C libraries are left alone.

    By default it gives each large block back at once. The system then hands out the next one page
    by page, filled with zeros: for activations on a CPU, that takes as long as to compute some of
    them. Afterwards the process keeps as much memory as it once had at its peak. Threads that start
    later share one pool with the first, since each of their own could hold no large block.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        library.mallopt(_TRIM_THRESHOLD, _LARGEST_REST)
        library.mallopt(_ARENA_MAX, 1)
