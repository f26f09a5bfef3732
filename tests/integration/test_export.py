"""`src/export.py` as a user runs it, and what is done with what it wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech import voice, write_wav

from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run_dir(tiny_stages, tmp_path_factory) -> Path:
    """A short run of the small restorer, with moving averages."""
    root = tmp_path_factory.mktemp("run")
    more = [f"trainer.output_dir={root}", "trainer.max_steps=2", "optimizer.lr=0.02"]
    prepare(compose_run([*tiny_stages["waveform"], *more]), start("cpu")).run()
    return root


def test_an_exported_run_restores_the_same_bytes(run_dir, run_script, tmp_path):
    exported = tmp_path / "exported"
    words = ["--ckpt-dir", run_dir, "--ckpt", "2", "--output-dir", exported]
    told = run_script("src/export.py", *words, "--licence", "mit").stdout
    assert f"restore with python src/inference.py --ckpt-dir {exported}" in told
    assert "license: mit" in (exported / "README.md").read_text()
    inputs = tmp_path / "in"
    inputs.mkdir()
    write_wav(inputs / "a.wav", voice(1, 1.3, 16000), 16000)
    restored = []
    for name, ckpt in (("before", ["--ckpt-dir", run_dir, "--ckpt", "2"]), ("after", [])):
        ckpt = ckpt or ["--ckpt-dir", exported]
        places = ["--input-audio-dir", inputs, "--output-dir", tmp_path / name]
        run_script("src/inference.py", *ckpt, *places)
        restored.append(soundfile.read(tmp_path / name / "a.wav", dtype="int16")[0])
    assert np.array_equal(*restored)
    manifests = [tmp_path / name / "manifest.jsonl" for name in ("before", "after")]
    models = {json.loads(path.read_text())["model"] for path in manifests}
    assert len(models) == 1


def test_a_run_starts_from_what_was_exported(run_dir, run_script, tiny_stages, tmp_path):
    exported = tmp_path / "exported"
    run_script("src/export.py", "--ckpt-dir", run_dir, "--output-dir", exported)
    more = [f"trainer.output_dir={tmp_path / 'next'}", f"trainer.init_from={exported}"]
    steps = ["trainer.max_steps=1", "optimizer.lr=1e-8", "optimizer.final_lr=1e-8"]
    prepare(compose_run([*tiny_stages["waveform"], *more, *steps]), start("cpu")).run()
    first = Checkpoint.open(run_dir).averaged_weights("cleaner")
    then = Checkpoint.open(tmp_path / "next").weights("cleaner")
    name = "join.bias"
    np.testing.assert_allclose(then[name].numpy(), first[name].numpy(), atol=1e-6)


def test_wrong_use_is_told_before_anything_is_loaded(run_script, tmp_path):
    words = ["--output-dir", tmp_path, "--format", "onnx", "--push-to", "a/b"]
    failed = run_script("src/export.py", *words, check=False)
    assert failed.returncode == 2
    assert "--push-to and --with-encoder go with --format safetensors" in failed.stderr
    (tmp_path / "mine").write_text("")
    failed = run_script("src/export.py", "--output-dir", tmp_path, check=False)
    assert "exists and is not empty: choose another folder" in failed.stderr
    failed = run_script("src/export.py", "--ckpt-dir", "none", "--output-dir", "x", check=False)
    assert "there is no checkpoint at none" in failed.stderr
