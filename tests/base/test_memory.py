"""Freed memory is used again; in a process of its own, since it stays so."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource
import sys
import numpy as np
from open_miipher.base.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(40 * 2**20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(40 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is for glibc")
def test_pages_are_not_fetched_anew_for_each_array():
    def faults(word: str) -> int:
        source = Path(__file__).parents[2] / "src"
        command = [sys.executable, "-c", SCRIPT, word]
        environment = {"PYTHONPATH": str(source)}
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    assert faults("keep") < 100 < faults("no")
