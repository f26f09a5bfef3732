"""A model from its checkpoint: `text_to_speech_pipeline`, and the notebook that shows it."""

import hashlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_codec import make_codec
from tiny_tts import RATE

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.synthesis.speaking import Speaker, text_to_speech_pipeline
from open_miipher.training import prepare

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/sample_from_model.ipynb"


@pytest.fixture(scope="module")
def pipeline(run):
    return text_to_speech_pipeline(run)


def test_a_text_becomes_sound(pipeline):
    out = pipeline("abc", forward_params={"seed": 3})
    assert set(out) == {"audio", "sampling_rate"}
    assert out["sampling_rate"] == RATE
    assert out["audio"].dtype == np.float32
    assert out["audio"].ndim == 1
    assert 320 <= len(out["audio"]) <= 0.8 * RATE
    assert len(out["audio"]) % 320 == 0
    again = pipeline("abc", forward_params={"seed": 3})
    assert np.array_equal(again["audio"], out["audio"])
    other = pipeline("abc", forward_params={"seed": 4})
    assert not np.array_equal(other["audio"], out["audio"])


def test_several_texts_are_a_list_of_what_each_is_at_its_place(pipeline):
    params = {"seed": 3, "num_beams": 2, "top_k": 50, "temperature": 0.8, "max_new_tokens": 21}
    outs = pipeline(["abc", "abcdefg"], forward_params=params)
    alone = pipeline("abc", forward_params=params)
    assert len(outs) == 2
    assert len(outs[0]["audio"]) == len(alone["audio"])
    np.testing.assert_allclose(outs[0]["audio"], alone["audio"], atol=1e-5)
    assert max(len(out["audio"]) for out in outs) <= 10 * 320  # 20 tokens: whole frames
    assert pipeline([]) == []


@pytest.mark.parametrize(
    ("texts", "params", "words"),
    [
        ("abc", {"beams": 4}, "unknown key forward_params.beams; .* num_beams"),
        ("abc", {"num_beams": 2.5}, r"forward_params\.num_beams=2\.5 must be a whole number"),
        ("abc", {"temperature": 0}, "temperature must be above 0"),
        ("", {}, "text 0: the text is empty"),
        (["abc", 7], {}, "text 1: 7 is of type int, and no text"),
        (None, {}, "text 0: None is of type NoneType"),
        ("abcdefgabc", {}, r"has 10 bytes, more than 9, the longest .* in its 0\.8 s \(data\.sec"),
    ],
)
def test_what_cannot_be_spoken_is_refused_in_a_sentence(pipeline, texts, params, words):
    with pytest.raises(UserError, match=words):
        pipeline(texts, forward_params=params)


def test_a_checkpoint_is_bound_to_its_codec(run, spoken, tmp_path):
    own = shutil.copytree(run, tmp_path / "run", symlinks=True)
    moved = tmp_path / "codec"
    config = Checkpoint.open(own).path / "config.yaml"
    text = config.read_text().replace(str(spoken / "codec"), str(moved))
    config.write_text(text)
    listing = config.parent / "files.json"
    files = json.loads(listing.read_text())
    files["config.yaml"] = {
        "sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "bytes": config.stat().st_size,
    }
    listing.write_text(json.dumps(files))
    with pytest.raises(UserError, match=f"codec source {moved}"):
        text_to_speech_pipeline(own)
    shutil.copytree(spoken / "codec", moved)
    text_to_speech_pipeline(own)
    make_codec(moved, num_filters=6)
    with pytest.raises(UserError, match="learned tokens of another codec"):
        text_to_speech_pipeline(own)


def test_a_model_of_another_kind_is_refused(tiny_stages, tmp_path):
    words = [*tiny_stages["cleaner"], f"trainer.output_dir={tmp_path}", "trainer.max_steps=1"]
    prepare(compose_run(words), start("cpu")).run()
    with pytest.raises(UserError, match="model=demo_feature_cleaner, which speaks no text"):
        Speaker.from_checkpoint(Checkpoint.open(tmp_path))


def test_the_notebook_runs_from_top_to_bottom(run, tmp_path, monkeypatch):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any("text_to_speech_pipeline" in cell for cell in code)
    assert all(not cell.get("outputs") for cell in cells)
    (tmp_path / "output").mkdir()
    (tmp_path / "output/tts").symlink_to(run)
    (tmp_path / "docs").mkdir()
    heard = []
    display = types.ModuleType("IPython.display")
    display.Audio = lambda data, rate: heard.append((data, rate))
    display.display = lambda shown: None
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path / "docs")  # where jupyter starts a notebook
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict = {}
    for cell in code:
        short = cell.replace("I am happy you are here", "abcdef")
        exec(compile(short.replace("How are you", "fedcba"), str(NOTEBOOK), "exec"), names)
    assert len(heard) >= 3
    assert {rate for _, rate in heard} == {RATE}
    [written] = Path(os.getcwd()).rglob("*.wav")
    assert soundfile.info(written).samplerate == RATE
    assert torch.is_grad_enabled()
