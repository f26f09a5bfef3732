"""The small restorer from its training to restored audio, at a size for tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.restoration import Chain, RestoreOptions, Restorer
from open_miipher.training import prepare

pytestmark = pytest.mark.integration
RATE = 24000


@pytest.fixture(scope="module")
def run_dir(tiny_stages, tmp_path_factory) -> Path:
    """A run of a few large steps, so that what it does to audio can be seen."""
    root = tmp_path_factory.mktemp("small")
    more = [f"trainer.output_dir={root}", "trainer.max_steps=6", "trainer.ema.enabled=false"]
    schedule = ["optimizer.lr=0.02", "optimizer.warmup_steps=0"]
    prepare(compose_run([*tiny_stages["waveform"], *schedule, *more]), start("cpu")).run()
    return root


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def test_the_checkpoint_holds_the_cleaner_alone_and_how_to_build_the_rest(run_dir):
    checkpoint = Checkpoint.open(run_dir)
    assert checkpoint.names == ["cleaner"]
    assert set(checkpoint.networks) == {"encoder", "cleaner", "generator"}
    chain = Chain.from_checkpoint(run_dir)
    assert (chain.input_rate, chain.output_rate, chain.output_hop) == (24000, 24000, 384)
    assert chain.restores_level
    assert not chain.needs_statistics


@pytest.mark.parametrize("num_samples", [1, 383, 385, 24001])
def test_lengths_are_exact(run_dir, num_samples):
    restored, rate = Restorer.from_checkpoint(run_dir, device="cpu").restore(
        noise(2)[:num_samples], RATE
    )
    assert (len(restored), rate) == (num_samples, RATE)
    assert np.isfinite(restored).all()


def test_it_changes_the_audio_and_the_level_only_scales_it(run_dir):
    restorer = Restorer.from_checkpoint(run_dir, device="cpu")
    waveform = noise(1)
    restored, _ = restorer.restore(waveform, RATE)
    assert np.abs(restored - waveform).max() > 1e-3
    for level in (1e-3, 30.0):
        scaled, _ = restorer.restore(level * waveform, RATE)
        np.testing.assert_allclose(scaled / level, restored, atol=1e-4)


def test_chunks_meet_and_silence_stays_silent(run_dir):
    waveform = noise(8)
    waveform[3 * RATE : 5 * RATE] = 0
    whole, chunked = (
        Restorer.from_checkpoint(
            run_dir,
            RestoreOptions(chunk_seconds=seconds, overlap_seconds=overlap),
            device="cpu",
        ).restore(waveform, RATE)[0]
        for seconds, overlap in ((10.0, 0.0), (4.5, 2.2))
    )
    # Twice the reach of 67 frames, 2.14 s, is shared by neighbouring chunks.
    np.testing.assert_allclose(chunked, whole, atol=2e-3)
    pause = whole[round(4.2 * RATE) : round(4.8 * RATE)]
    assert np.sqrt(np.mean(pause**2)) < 1e-6


def test_the_command_restores_files(run_dir, run_script, tmp_path):
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    soundfile.write(inputs / "a.wav", noise(1.3), RATE)
    soundfile.write(inputs / "b.wav", noise(1)[:16001], 16000)
    words = ["--ckpt-dir", run_dir, "--input-audio-dir", inputs, "--output-dir", outputs]
    run_script("src/inference.py", *words)
    assert soundfile.info(outputs / "a.wav").frames == round(1.3 * RATE)
    assert soundfile.info(outputs / "b.wav").frames == 24002
    rows = [json.loads(line) for line in (outputs / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 2
