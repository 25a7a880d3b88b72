"""How the C library is told to keep memory that tensors will ask for again."""

from __future__ import annotations

import ctypes

# mallopt's names in glibc's malloc.h; it refuses mmap thresholds beyond 32 MiB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 2**30, 2**25


def keep_freed_memory() -> bool:
    """Have glibc keep up to 1 GiB of freed memory in the process; returns whether it was done (elsewhere: False).

    By default it hands blocks of some MiB back to the kernel as soon as they are freed, and a training or attack step
    on the CPU frees all of its activations: faulting them in anew took 15 to 40 % of a step. For programs (the command
    line calls it), never for a library to do unasked: the environment variable MALLOC_TRIM_THRESHOLD_ does the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT)) & bool(mallopt(_MMAP_THRESHOLD, _LARGEST))
