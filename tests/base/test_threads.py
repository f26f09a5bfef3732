"""How many threads processes use."""

import os
import subprocess
import sys

import pytest

from open_miipher.base.threads import use_one_blas_thread

COUNT = """
import os, numpy
numpy.ones((600, 600), numpy.float32) @ numpy.ones((600, 600), numpy.float32)
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_children_multiply_matrices_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    use_one_blas_thread()
    child = [sys.executable, "-c", COUNT]
    assert subprocess.run(child, capture_output=True, text=True, check=True).stdout == "1\n"


def test_who_chose_a_number_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    use_one_blas_thread()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
