"""The committed demo audio: indexed truly, small, at sane levels, nothing held back twice."""

from pathlib import Path

import numpy as np
import pytest

from open_miipher.audio.io import read
from open_miipher.index import read_index, verify_index

DEMO = Path(__file__).resolve().parents[2] / "dataset" / "demo"


@pytest.mark.parametrize(
    ("folder", "num_files"), [("speech/train", 12), ("speech/test", 4), ("noise", 4)]
)
def test_each_folder_is_indexed_and_at_sane_levels(folder: str, num_files: int) -> None:
    index = read_index(DEMO / folder)
    verify_index(index)
    assert len(index.entries) == num_files
    for entry in index.entries:
        waveform, sample_rate = read(index.root / entry.file_path)
        assert (sample_rate, len(waveform)) == (24000, 1)
        assert 1.2 * sample_rate < waveform.shape[1] < 4 * sample_rate
        assert 0.15 < np.abs(waveform).max() < 0.7
        assert waveform.std() > 0.01


def test_the_test_sentences_are_held_back_and_all_is_small() -> None:
    texts = [
        {entry.extra["text"] for entry in read_index(DEMO / "speech" / split).entries}
        for split in ("train", "test")
    ]
    assert not texts[0] & texts[1]
    assert all(texts[0] | texts[1])
    assert sum(path.stat().st_size for path in DEMO.rglob("*.flac")) < 700_000
