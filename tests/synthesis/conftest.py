"""A text-to-speech model that has learned for two steps."""

from pathlib import Path

import pytest
from tiny_tts import overrides

from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare


@pytest.fixture(scope="session")
def run(spoken, tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("tts") / "run"
    words = overrides(spoken, f"trainer.output_dir={folder}", "trainer.max_steps=2")
    prepare(compose_run(words), start("cpu")).run()
    return folder
