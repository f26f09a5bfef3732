"""Generating into a folder that holds what other runs made."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from open_miipher.audio.mel import MelConfig
from open_miipher.base.errors import UserError
from open_miipher.corpus.generating import Generate, MelFiles, Numbers
from open_miipher.corpus.run import run

CONFIG = MelConfig(8000, 256, 256, 64, 4, 20.0, 4000.0)


class Silent:
    """A model whose sounds are ten zeros each."""

    descent, sample_rate = SimpleNamespace(betas=(0.1, 0.2)), 8000

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def generate(self, numbers, seed, mel):
        return torch.zeros(len(numbers), 10)


@pytest.fixture
def generate(alone, tmp_path, capsys):
    """Generate into one folder; gives its wav files and what was printed."""
    folder = tmp_path / "out"

    def make(model: str, inputs, overwrite: bool = False) -> tuple[list[str], str]:
        run(Generate(Silent(model), inputs, folder, 0), folder, alone, overwrite)
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.wav")), (
            capsys.readouterr().out
        )

    make.folder = folder
    return make


@pytest.fixture
def mels(tmp_path) -> Path:
    folder = tmp_path / "mels"
    folder.mkdir()
    for name in "ab":
        np.save(folder / f"{name}.npy", np.zeros((4, 5), np.float32))
    return folder


def numbers(count: int, size: int = 4) -> Numbers:
    return Numbers(count, size, 0.1)


def names(count: int) -> list[str]:
    return [f"{number:06d}.wav" for number in range(count)]


def test_fewer_sounds_of_another_model_leave_none_of_the_first(generate):
    generate("first", numbers(10))
    (generate.folder / "000099.wav").write_bytes(b"no run made it")
    with pytest.warns(UserWarning, match="deleted 5 sounds .* overwritten"):
        there, said = generate("second", numbers(5, size=2), overwrite=True)
    assert there == [*names(5), "000099.wav"]
    assert "not asked for" not in said
    there, said = generate("second", numbers(5, size=2))
    assert there == [*names(5), "000099.wav"]
    assert "0 to do, 3 done before" in said


def test_a_run_that_was_killed_before_it_could_delete_is_made_up_for(generate):
    """What the ledger forgot goes, also if the run that goes on does not overwrite."""
    generate("first", numbers(8))
    kept = {p.name: p.read_bytes() for p in generate.folder.glob("*.wav")}
    with pytest.warns(UserWarning, match="deleted 4"):
        generate("second", numbers(4), overwrite=True)
    for name in names(8)[4:]:
        (generate.folder / name).write_bytes(kept[name])
    with pytest.warns(UserWarning, match="deleted 4"):
        assert generate("second", numbers(4))[0] == names(4)


def test_fewer_sounds_of_the_same_model_stay_and_are_told(generate):
    generate("one", numbers(10))
    there, said = generate("one", numbers(4))
    assert there == names(10)
    assert "0 to do, 1 done before" in said
    assert re.search(r"failed before, 2 not asked for any more$", said, re.M)
    there, said = generate("one", numbers(9))  # number 8 is asked for, 9 is not
    assert there == names(10)
    assert "1 to do, 2 done before" in said
    assert "1 not asked for any more" in said


def test_sounds_of_mels_stay_and_are_told(generate, mels):
    generate("one", MelFiles(mels, None, CONFIG))
    there, said = generate("two", MelFiles(mels, "b", CONFIG), overwrite=True)
    assert there == ["a.wav", "b.wav"]
    assert "1 not asked for any more" in said
    there, said = generate("three", numbers(2), overwrite=True)
    assert there == [*names(2), "a.wav", "b.wav"]
    assert "2 not asked for any more" in said
    with pytest.warns(UserWarning, match="deleted 2"):
        there, _ = generate("one", MelFiles(mels, None, CONFIG), overwrite=True)
    assert there == ["a.wav", "b.wav"]


def test_mels_of_another_front_end_are_refused(mels):
    inputs = MelFiles(mels, None, CONFIG)
    (mels / "mel.json").write_text(json.dumps({**vars(CONFIG), "f_max": 4000}))
    inputs.check(mels)
    (mels / "mel.json").write_text("[]")
    with pytest.raises(UserError, match=r"mel\.json is damaged"):
        inputs.check(mels)
