"""`src/generate.py` as a user runs it: from nothing, from mels, killed, and given what is wrong."""

import shutil
import signal

import numpy as np
import pytest
import soundfile
from tiny_diffusion import BACKBONES, NARROW, RATE, VOCODER, overrides

from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runs(tones, tmp_path_factory):
    """Runs of two steps, whose backbones guess something."""
    root = tmp_path_factory.mktemp("runs")
    words = {name: overrides(name, tones) for name in BACKBONES}
    words["vocoder"] = overrides("wavenet", tones, *VOCODER)
    for name, given in words.items():
        end = [f"trainer.output_dir={root / name}", "trainer.max_steps=2", "optimizer.lr=0.05"]
        prepare(compose_run([*given, *end]), start("cpu")).run()
    return root


def files(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.wav")}


@pytest.mark.dist
@pytest.mark.parametrize("name", BACKBONES)
def test_three_processes_and_a_kill_make_the_files_of_one(
    name, runs, run_script, start_script, tmp_path, wait_until
):
    words = ["src/generate.py", "--ckpt-dir", runs / name, "--n-samples", 64, "--batch-size", 4]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_script(*words, "--output-dir", whole)
    killed = start_script(*words, "--output-dir", broken, ranks=3)
    rows = lambda: sum(p.stat().st_size for p in broken.glob(".ledger/rank-*.jsonl"))  # noqa: E731
    wait_until(lambda: rows() or killed.is_over)
    killed.send(signal.SIGKILL)
    killed.end()
    assert 4 <= len(files(broken)) < 64
    done = run_script(*words, "--output-dir", broken, ranks=3)
    assert " made before" in done.stdout
    assert files(broken) == files(whole)
    assert sorted(files(whole)) == [f"{number:06d}.wav" for number in range(64)]
    assert not list(broken.glob(".*.tmp"))
    sounds = {content for content in files(whole).values()}
    assert len(sounds) == 64
    info = soundfile.info(whole / "000063.wav")
    assert (info.samplerate, info.frames, info.channels) == (RATE, 1000, 1)


def test_clips_go_beside_the_checkpoints_and_other_options_make_others(runs, run_script):
    words = ["src/generate.py", "--ckpt-dir", runs / "sashimi"]
    done = run_script(*words, "--n-samples", 3, "--ckpt", "2")
    folder = runs / "sashimi/waveforms/2"
    assert sorted(files(folder)) == ["000000.wav", "000001.wav", "000002.wav"]
    assert "1 batch made, 0 failed" in done.stdout
    again = run_script(*words, "--n-samples", 3)
    assert "nothing to do: 1 batch made before" in again.stdout
    assert "1 of 1 done" in run_script("src/status.py", folder).stdout
    verify = run_script("src/status.py", folder, "--verify", check=False)
    assert verify.returncode == 2
    assert "holds sounds of src/generate.py" in verify.stderr
    first = files(folder)["000000.wav"]
    refused = run_script(*words, "--n-samples", 3, "--seed", 1, check=False)
    assert refused.returncode == 2
    assert "seed was 0 and is 1" in refused.stderr
    run_script(*words, "--n-samples", 3, "--seed", 1, "--overwrite")
    assert files(folder)["000000.wav"] != first
    levels = ["--sampler", "fast", "--fast-levels", "1e-4,.1,.5"]
    run_script(*words, "--n-samples", 1, "--output-dir", folder / "fast", *levels)
    assert sorted(files(folder / "fast")) == ["000000.wav"]


def test_mels_are_vocoded_one_by_one(runs, run_script, tmp_path):
    rng = np.random.default_rng(0)
    mels = tmp_path / "mels"
    (mels / "deep").mkdir(parents=True)
    np.save(mels / "a.npy", rng.normal(-5, 2, (20, 10)).astype(np.float32))
    np.save(mels / "deep/b.npy", rng.normal(-5, 2, (20, 7)).astype(np.float32))
    np.save(mels / "bands.npy", np.zeros((80, 7), np.float32))
    np.save(mels / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(mels / "nan.npy", np.full((20, 7), np.nan, np.float32))
    words = ["src/generate.py", "--ckpt-dir", runs / "vocoder", "--mel-dir", mels]
    out = tmp_path / "out"
    done = run_script(*words, "--output-dir", out, check=False)
    assert done.returncode == 3
    said = done.stdout + done.stderr
    assert "bands.npy has 80 bands" in said
    assert "pickled.npy is damaged, or holds Python objects" in said
    assert "nan.npy is empty, or holds NaN" in said
    assert sorted(files(out)) == ["a.wav", "deep/b.wav"]
    assert soundfile.info(out / "deep/b.wav").frames == 7 * 64
    (mels / "mel.json").write_text('{"hop_length": 128, "n_mels": 20}')
    refused = run_script(*words, "--output-dir", out, check=False)
    assert refused.returncode == 2
    assert "mels of another front end than the model's: sample_rate is None, not 8000" in (
        refused.stderr
    )
    assert "hop_length is 128, not 64" in refused.stderr
    (mels / "mel.json").unlink()
    alone = tmp_path / "alone"
    run_script(*words, "--output-dir", alone, "--mel-name", "b")
    assert files(alone) == {"deep/b.wav": files(out)["deep/b.wav"]}


@pytest.mark.parametrize(
    ("of", "more", "words"),
    [
        ("sashimi", ["--mel-dir", "mels"], "this model is unconditional"),
        ("nowhere", ["--seed", "-1"], r"--seed -1: choose a whole number, 0 to 2\^63 - 1"),
        ("nowhere", ["--seed", str(2**63)], "--seed 9223372036854775808: choose a whole"),
        ("sashimi", ["--n-samples", "0"], "must be at least 1"),
        (
            "sashimi",
            ["--sampler", "fast", "--fast-levels", "1e-9,.1"],  # less noise than in training
            "fast level 1 .* is outside the trained range",
        ),
        ("sashimi", ["--sampler", "fast", "--fast-levels", "a,b"], "give numbers with commas"),
        ("vocoder", [], "makes speech of mels: give --mel-dir"),
        ("vocoder", ["--mel-dir", "nowhere"], "nowhere .* is no folder"),
        ("vocoder", ["--mel-dir", "src", "--n-samples", "3"], "goes with clips from nothing"),
        ("vocoder", ["--mel-dir", "src"], r"holds no \*.npy"),
        ("pretrained/default", [], "of model=small_restorer, which generates nothing by itself"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(of, more, words, runs, run_script, tmp_path):
    import re

    folder = of if "/" in of else runs / of
    out = ["--output-dir", tmp_path / "out"]
    done = run_script("src/generate.py", "--ckpt-dir", folder, *out, *more, check=False)
    assert done.returncode == 2
    assert re.search(f"^error: .*{words}", done.stderr, re.M), done.stderr
    assert not files(tmp_path)


def test_a_checkpoint_outside_a_run_needs_a_place_for_the_files(runs, run_script, tmp_path):
    copy = tmp_path / "deep/copy"
    shutil.copytree(runs / "sashimi/ckpt/latest", copy)
    words = ["src/generate.py", "--ckpt-dir", copy, "--n-samples", 1]
    refused = run_script(*words, check=False)
    assert refused.returncode == 2
    assert "deep/copy is in no run's ckpt folder: say by --output-dir where" in refused.stderr
    assert not files(tmp_path)
    run_script(*words, "--output-dir", tmp_path / "out")
    assert list(files(tmp_path)) == ["out/000000.wav"]


def test_a_vocoder_copies_a_directory_at_any_rate(runs, run_script, tones, tmp_path):
    """Its rate is 8 kHz; a copy has the rate of the model, and the length of its original."""
    source = tmp_path / "in"
    source.mkdir()
    waveform = 0.3 * np.sin(np.arange(24000) / 10)
    soundfile.write(source / "long.wav", waveform, 24000)
    soundfile.write(source / "short.wav", waveform[:3001], 24000)
    words = ["src/inference.py", "--ckpt-dir", runs / "vocoder", "--input-audio-dir", source]
    run_script(*words, "--output-dir", tmp_path / "out", "--device", "cpu")
    for file, frames in (("long.wav", 8000), ("short.wav", 1000)):
        info = soundfile.info(tmp_path / "out" / file)
        assert (info.samplerate, info.frames) == (RATE, frames)
    words[2] = runs / "wavenet"
    refused = run_script(*words, "--output-dir", tmp_path / "none", check=False)
    assert refused.returncode == 2
    assert "makes speech from nothing and cannot restore any" in refused.stderr


@pytest.mark.slow
def test_a_diffusion_is_stage_2_and_3_of_the_log_mel_restorer(
    tiny_stages, speech_dir, run_script, tmp_path
):
    """Stage 1 is the demo's; the chain restores as any other, and its parts must fit."""
    small = [
        *(word for word in tiny_stages["finetune"] if word.startswith(("data.", "trainer."))),
        *(word for word in NARROW if "diffusion.T" not in word and "beta_T" not in word),
        *("model.res_channels=8", "model.skip_channels=8", "model.num_res_layers=2"),
        *("trainer.max_steps=1", "trainer.validate_every=1", "trainer.sample_every=1"),
        *("trainer.num_samples=1", "trainer.logger.kind=none"),
    ]
    [stage1] = (w for w in tiny_stages["finetune"] if w.startswith("model.cleaner_ckpt_dir="))
    second, third = (f"trainer.output_dir={tmp_path / name}" for name in ("stage2", "stage3"))
    run_script("src/train.py", "model=diffwave_pretrain", *small, second)
    words = ["model=diffwave_finetune", *small, stage1, f"model.vocoder_ckpt_dir={tmp_path}/stage2"]
    run_script("src/train.py", *words, third)
    sounds = {p.name for p in (tmp_path / "stage3").rglob("waveforms/*/*.flac")}
    assert sounds == {f"clip-00-{kind}.flac" for kind in ("original", "damaged", "generated")}
    restore = ["src/inference.py", "--input-audio-dir", speech_dir, "--device", "cpu"]
    run_script(*restore, "--ckpt-dir", tmp_path / "stage3", "--output-dir", tmp_path / "out")
    for path in speech_dir.glob("*.wav"):
        before, after = soundfile.info(path), soundfile.info(tmp_path / "out" / path.name)
        assert after.samplerate == 24000
        assert after.frames == round(before.frames * 24000 / before.samplerate)
    for more, said in (
        (["model.mel.n_mels=80", "data=default"], "model.encoder is not log_mel with the fields"),
        (["data=audio"], "trains on pairs of clean and damaged speech with a cleaner alone"),
    ):
        others = [w for w in words if not w.startswith("data.test.clip")]
        refused = run_script("src/train.py", *others, *more, third + "x", check=False)
        assert refused.returncode == 2
        assert said in refused.stderr


def test_mels_in_files_are_trained_on_and_vocoded(tones, run_script, tmp_path):
    """From make_mels.py over data.train.mel_dir to --mel-dir, with one front end."""
    mels, given = tmp_path / "mels", overrides("sashimi", tones, *VOCODER, "data.crop_seconds=0.12")
    run_script("dataset/script/make_mels.py", *given, f"+output_dir={mels}")
    assert np.load(mels / "3.npy").shape == (20, 16)
    more = [f"data.train.mel_dir={mels}", f"trainer.output_dir={tmp_path / 'run'}"]
    run_script("src/train.py", *given, *more, "trainer.max_steps=2", "trainer.log_every=1")
    words = ["src/generate.py", "--ckpt-dir", tmp_path / "run", "--mel-dir", mels]
    run_script(*words, "--output-dir", tmp_path / "out", "--sampler", "fast", "--mel-name", "3")
    assert sorted(files(tmp_path / "out")) == ["3.wav"]
    assert soundfile.info(tmp_path / "out/3.wav").frames == 16 * 64
