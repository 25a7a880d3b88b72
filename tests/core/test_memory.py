"""Freed memory stays in the process: the same tensor is not faulted in anew at every step."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from crossguard.core.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1)
    raise SystemExit
def step():
    for _ in range(20):
        [torch.zeros(2**20) for _ in range(6)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc only")
def test_freed_memory_is_kept() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    kept = faults("keep")
    if kept < 0:
        pytest.skip("the C library is not glibc")
    assert kept < 200
    assert faults("default") > 10 * max(kept, 1), "the default no longer gives memory back: this file is idle"
