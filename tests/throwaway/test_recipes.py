"""Systems without pairs, encoders or vocoders train on the same trainer, loader and checkpoint."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent))
from recipes import MODELS, SOURCES, register

from open_miipher import config
from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.cleaners import CLEANERS
from open_miipher.data import DATA
from open_miipher.discriminators import DISCRIMINATORS
from open_miipher.distributed import start
from open_miipher.encoders import ENCODERS
from open_miipher.recipes import RECIPES
from open_miipher.training import prepare
from open_miipher.vocoders import VOCODERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config_dir(tmp_path, monkeypatch) -> Path:
    """The project's configuration with two models and two kinds of data more."""
    folder = tmp_path / "config"
    shutil.copytree(ROOT / "config", folder)
    for group, files in (("model", MODELS), ("data", SOURCES)):
        for name, text in files.items():
            (folder / group / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(config, "CONFIG_DIR", folder)
    before = dict(RECIPES), dict(DATA)
    register()
    yield folder
    for registry, old in zip((RECIPES, DATA), before, strict=True):
        registry.clear()
        registry.update(old)


def settings(kind: str, output_dir: Path, *more: str) -> list[str]:
    quiet = ["trainer.logger.kind=none", "trainer.device=cpu", "trainer.sample_every=6"]
    every = ["trainer.validate_every=3", f"trainer.output_dir={output_dir}"]
    return [f"model={kind}", f"data={kind}", *quiet, *every, *more]


@pytest.mark.dist
def test_both_train_on_two_ranks_and_resume_to_the_bit(config_dir, run_script, tmp_path, end_of):
    kinds = ("tones", "spellings")
    first = [settings(kind, tmp_path / f"{kind}-whole") for kind in kinds]
    alone = "trainer.num_workers=0"
    first += [settings(kind, tmp_path / kind, "trainer.max_steps=3", alone) for kind in kinds]
    second = [[f"trainer.ckpt_dir={tmp_path / kind}", "trainer.max_steps=6"] for kind in kinds]
    for number, runs in enumerate((first, second)):
        file = tmp_path / f"runs-{number}.json"
        file.write_text(json.dumps(runs))
        run_script("tests/throwaway/run.py", config_dir, file, ranks=2)
    for kind in kinds:
        resumed, whole = tmp_path / kind, tmp_path / f"{kind}-whole"
        assert end_of(resumed) == end_of(whole)
        ours, theirs = Checkpoint.open(resumed), Checkpoint.open(whole)
        torch.testing.assert_close(ours.training_state(), theirs.training_state(), rtol=0, atol=0)
        rows = [json.loads(line) for line in (resumed / "metrics.jsonl").open()]
        assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6]
        assert [row["step"] for row in rows if row["split"] == "validation"] == [3, 6]
    folder = tmp_path / "tones/samples/step-00000006"
    assert {p.name for p in folder.glob("*.flac")} == {
        f"clip-{clip:02d}-{number}.flac" for clip in range(3) for number in range(2)
    }
    spoken = soundfile.info(tmp_path / "spellings/samples/step-00000006/clip-00-spoken.flac")
    assert (spoken.samplerate, spoken.frames % 400) == (8000, 0)


def test_sound_from_nothing_needs_no_validation_data(config_dir, tmp_path):
    run = settings("tones", tmp_path / "run", "data.val_items=0", "trainer.num_workers=0")
    prepare(config.compose_run(run), start("cpu")).run()
    folder = tmp_path / "run/samples/step-00000006"
    assert {p.name for p in folder.glob("*.flac")} == {"generated-0.flac", "generated-1.flac"}
    assert soundfile.info(folder / "generated-0.flac").samplerate == 16000


def test_networks_are_built_from_the_checkpoint_alone(config_dir, tmp_path):
    """Tied weights too."""
    trainer = prepare(
        config.compose_run(settings("spellings", tmp_path / "run", "trainer.num_workers=0")),
        start("cpu"),
    )
    trainer.run()
    checkpoint = Checkpoint.open(tmp_path / "run")
    built = checkpoint.build("speller", ema=False).eval()
    averaged = checkpoint.build("speller")
    assert built.after.weight is built.before.weight
    text = torch.arange(6)[None]
    own = trainer.recipe.trained["speller"].eval()
    assert torch.equal(built(text), own(text))
    assert torch.equal(averaged.before.weight, trainer.state.ema.average["before.weight"])
    assert torch.equal(averaged.after.weight, averaged.before.weight)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("tones", "default", "tones trains on audio, but data.name=degraded_speech gives pairs"),
        ("spellings", "tones", "spellings trains on text and codes, but data.name=tones gives"),
        ("demo_feature_cleaner", "spellings", "trains on pairs of clean and damaged speech, but"),
    ],
)
def test_data_of_the_wrong_kind_is_refused(config_dir, tmp_path, model, data, words):
    overrides = [f"model={model}", f"trainer.output_dir={tmp_path / 'run'}"]
    if model.startswith("demo"):
        overrides += ["~data.crop_seconds"]
    run = config.compose_run([*overrides, f"data={data}"])
    with pytest.raises(UserError, match=words) as caught:
        prepare(run, start("cpu"))
    assert "\n" not in str(caught.value)
    assert "choose another data=…" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_learning_rate_is_enough_where_one_network_trains(config_dir):
    run = config.compose_run(["model=tones", "data=tones", "optimizer.lr=0.5"])
    assert run.optimizers["denoiser"].lr == 0.5
    assert run.overrides[-1] == "optimizer.denoiser.lr=0.5"


def test_the_trainer_knows_no_part_by_its_name():
    """Whoever adds a recipe, an encoder or a kind of data changes nothing there."""
    registries = (RECIPES, DATA, ENCODERS, CLEANERS, VOCODERS, DISCRIMINATORS)
    plain_words = {"group", "transformers", "audio"}
    names = {name for registry in registries for name in registry} - plain_words
    names |= {"encoder", "cleaner", "vocoder", "generator", "discriminator", "waveform_cleaner"}
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})s?\b", re.IGNORECASE)
    folders = [ROOT / "src/open_miipher" / name for name in ("training", "checkpoint")]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    files.append(ROOT / "src/open_miipher/corpus/run.py")
    found = {
        f"{file.name}: {match[0]}" for file in files for match in pattern.finditer(file.read_text())
    }
    assert not found
