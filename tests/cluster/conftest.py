"""A small training that the cluster tests start in many ways, and its end."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def settings() -> dict[str, str]:
    """Variables of the job scripts for the demo's cleaner on the demo's audio; a rank a node."""
    overrides = {
        "model.cleaner.num_blocks": 1,
        "data.crop_seconds": 0.5,
        "data.test.num_clips": 2,
        "trainer.device": "cpu",
        "trainer.num_workers": 0,
        "trainer.max_steps": 200,
        "trainer.log_every": 1,
        "trainer.save_every": 20,
        "trainer.validate_every": 100,
        "trainer.sample_every": 0,
    }
    environment = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{environment}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(environment.parent),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MODEL": "demo_feature_cleaner",
        "SPEECH_DIRS": "dataset/demo/speech/train",
        "NOISE_DIRS": "dataset/demo/noise",
        "TEST_DIRS": "dataset/demo/speech/test",
        "BATCH_SIZE": "4",
        "NPROC": "1",
        "EXTRA": " ".join(f"{key}={value}" for key, value in overrides.items()),
    }


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that waits for a condition, or fails with what a function says."""

    def wait(condition: Callable[[], bool], said: Callable[[], str], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, said()
            time.sleep(0.2)

    return wait


def missing(*programs: str) -> str | None:
    """Say what keeps a test that needs root and programs from running here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [
        p for p in programs if shutil.which(p, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    return f"needs {', '.join(absent)}" if absent else None


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """Return a function that skips a test where root or a program is missing."""

    def need(*programs: str) -> None:
        reason = missing(*programs)
        if reason:
            pytest.skip(reason)

    return need
