"""Make the C library keep the memory that blocks free, for the next ones.

By default glibc returns freed pieces of half a megabyte to the system, which maps and clears them
anew for every temporary of every block: half of the CPU time of a DARE merge.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST = 32 << 20
"""The most that glibc takes for its threshold; blocks and their temporaries are below."""


def keep_freed_memory() -> None:
    """For the rest of the process. Does nothing where the C library has no such settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, 16 * _LARGEST)
    mallopt(_TOP_PAD, _LARGEST // 2)
