"""SC09 from the archive's own layout to scores of generated clips, on made-up digits."""

import json
import re

import numpy as np
import pytest
import soundfile

RATE = 16000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LISTS = {"validation_list.txt": ("f",), "testing_list.txt": ("g",)}
DIFFUSION = [
    *("model=demo_diffwave", "experiment=sc09", "model.res_channels=4", "model.skip_channels=4"),
    *("model.num_res_layers=2", "model.dilation_cycle=2", "model.diffusion.T=6"),
    *("trainer.max_steps=2", "trainer.batch_size=2", "data.test.num_clips=1"),
]
CLASSIFIER = [
    *("model=digit_classifier", "model.network.channels=[8]", "model.network.features=8"),
    *("optimizer.lr=0.02", "optimizer.classifier.warmup_steps=1", "trainer.batch_size=25"),
    *("trainer.max_steps=60", "model.augment.speed=0", "trainer.validate_every=0"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Speech Commands of tones: every digit a pitch, every voice a phase and a level."""
    root = tmp_path_factory.mktemp("speech_commands")
    rng = np.random.default_rng(0)
    listed = {name: [] for name in LISTS}
    for place, word in enumerate((*DIGITS, "bed")):
        for voice in "abcdefg":
            path = f"{word}/{voice}_nohash_0.wav"
            (root / word).mkdir(exist_ok=True)
            time = np.arange(RATE - 1000 * (voice == "b")) / RATE + rng.uniform()
            tone = rng.uniform(0.2, 0.4) * np.sin(2 * np.pi * 200 * 1.4**place * time)
            soundfile.write(root / path, tone, RATE)
            for name in (name for name, voices in LISTS.items() if voice in voices):
                listed[name].append(path)
    for name, paths in listed.items():
        (root / name).write_text("\n".join(paths))
    return root


@pytest.mark.slow
@pytest.mark.integration
def test_from_the_archive_to_scores(archive, run_script, tmp_path):
    data, judge, run = tmp_path / "sc09", tmp_path / "judge", tmp_path / "run"
    prepare = ("--speech-commands", archive, "--output-dir", data, "--num-workers", 1)
    run_script("dataset/script/prepare_sc09.py", *prepare)
    dirs = [f"data.train.dir_list=[{data}/train]", f"data.test.dir_list=[{data}/valid]"]
    more = [*dirs, "trainer.device=cpu", "trainer.num_workers=0"]
    done = run_script("src/train.py", *DIFFUSION, *more, f"trainer.output_dir={run}")
    assert "10 of 50 files of data.train.dir_list are shorter than data.crop_sec" in done.stdout
    run_script("src/train.py", *CLASSIFIER, *more, f"trainer.output_dir={judge}")
    run_script("src/generate.py", "--ckpt-dir", run, "--n-samples", 12, "--output-dir", run / "w")
    words = ["--classifier", judge, "--test-dir", data / "test", "--measures", "level"]
    for clips in (run / "w", data / "valid"):
        out = tmp_path / f"of {clips.name}"
        given = ["--restored-dir", clips, "--output-dir", out]
        done = run_script("src/evaluate.py", *given, *words)
        assert re.search(r"^accuracy +- +(0\.9|1\.0)", done.stdout, re.M), done.stdout
    noise, real = (
        json.loads((tmp_path / f"of {name}/summary.json").read_text()) for name in ("w", "valid")
    )
    assert noise["fid"]["n"] == 12
    assert real["fid"]["mean"] < noise["fid"]["mean"]
    assert real["is"]["mean"] > max(5.0, noise["is"]["mean"])
    assert real["test_fid"] == noise["test_fid"]
