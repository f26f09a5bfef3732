"""`trainer.compile`: the same training, in few pieces, for every recipe.

All but one test leave out the compiler's last part; see `captured`.
"""

import shutil
from pathlib import Path

import pytest
import tiny_codec
import tiny_tts
import torch
from captured import leave_out_code
from tiny_diffusion import BACKBONES, VOCODER, overrides
from torch._dynamo.utils import counters

from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.index import scan, write_index
from open_miipher.training import Trainer, prepare

STEPS = 3
STAGES = ("cleaner", "pretrain", "finetune", "wavenext2", "waveform")
TOKENS = ("codec", "token_tts")
DIFFUSIONS = (*BACKBONES, *(f"{name}_vocoder" for name in BACKBONES))
SIDON = ("sidon_cleaner", "sidon_vocoder")
ALL = ("classifier", *STAGES[1:], *TOKENS, *DIFFUSIONS, *SIDON)
BREAKS = ("codec", "token_tts")  # a codec looks at numbers; texts are of many lengths


@pytest.fixture
def without_code(monkeypatch):
    leave_out_code(monkeypatch.setattr)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory) -> Path:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    folder = tmp_path_factory.mktemp("bert")
    Wav2Vec2BertModel(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tones, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for file in tones.glob("*.wav"):
        folder = root / str(int(file.stem) % 2)
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder)
    write_index(root, scan(root, ("wav",), num_workers=1).entries)
    return root


@pytest.fixture
def settings(tiny_stages, tones, speech_dir, spoken, tiny_bert, labelled):
    """Return a function that gives the overrides of a recipe at its tiniest."""

    def of(name: str) -> list[str]:
        if name in STAGES:
            return tiny_stages[name]
        if name in TOKENS:
            return {
                "codec": tiny_codec.overrides(speech_dir),
                "token_tts": tiny_tts.overrides(spoken),
            }[name]
        if name in DIFFUSIONS:
            more = VOCODER if name.endswith("_vocoder") else []
            return overrides(name.removesuffix("_vocoder"), tones, *more)
        if name == "classifier":
            return [
                "model=digit_classifier",
                *(f"model.network.{size}" for size in ("channels=[8]", "features=8", "dropout=0")),
                *(f"data.{part}.dir_list=[{labelled}]" for part in ("train", "test")),
                "data.crop_seconds=0.125",
                "trainer.batch_size=4",
                "trainer.num_workers=0",
                "trainer.device=cpu",
            ]
        common = [
            f"model.encoder.source={tiny_bert}",
            "model.encoder.layer=2",
            "data.sample_rate=24000",
            "trainer.amp=no",
            "trainer.logger.kind=none",
            *(o for o in tiny_stages["cleaner"] if o.startswith(("data.", "trainer."))),
            "data.crop_seconds=3",
        ]
        if name == "sidon_cleaner":
            return ["model=sidon_feature_predictor", "model.cleaner.dropout=0.0", *common]
        return [
            "model=sidon_vocoder_pretrain",
            "model.segment_seconds=0.2",
            "model.vocoder={name: dac, sample_rate: 24000, channels: 32, "
            "upsampling_rates: [8, 5, 4, 3]}",
            "model.discriminators.multi_period={periods: [3], channels: [4, 8]}",
            "model.discriminators.multi_band_stft={win_lengths: [128], channels: 4}",
            "model.mel={n_mels: [10, 40], win_lengths: [128, 512], floor: 1.0e-5}",
            *common,
        ]

    return of


def begin(*overrides: str) -> Trainer:
    return prepare(compose_run(list(overrides)), start("cpu"))


def train(words: list[str], folder: Path, *more: str) -> tuple[list[dict[str, float]], Trainer]:
    """Take steps; return what each read, and the trainer."""
    trainer = begin(*words, f"trainer.output_dir={folder}", *more)
    values = []
    for _ in range(STEPS):
        trainer.step()
        values.append(trainer.read())
    return values, trainer


def check_equal(settings, name: str, folder: Path) -> None:
    """Compare with a training that is not compiled, in losses, weights and averages."""
    torch._dynamo.reset()
    counters.clear()
    expected, plain = train(settings(name), folder / "plain")
    assert not counters["stats"]
    values, compiled = train(settings(name), folder / "compiled", "trainer.compile=true")
    for own, other in zip(values, expected, strict=True):
        for key, value in own.items():
            # What is rounded elsewhere is magnified where magnitudes to the power 0.3 are near 0.
            share = 1e-2 if key.startswith("grad_norm") else 1e-5
            assert value == pytest.approx(other[key], rel=share, abs=1e-5), key
    rate = max(config.lr for config in compiled.optimizers.values())
    for network, module in compiled.recipe.trained.items():
        theirs = dict(plain.recipe.trained[network].named_parameters())
        for key, weight in module.named_parameters():
            # Adam makes whole steps of gradients that are nothing but rounding.
            difference = (weight - theirs[key]).abs()
            assert difference.mean() <= 0.02 * rate * STEPS, (network, key)


@pytest.mark.parametrize(
    "name", ["cleaner", *(pytest.param(n, marks=pytest.mark.slow) for n in ALL)]
)
def test_a_compiled_training_equals_a_plain_one_in_few_pieces(
    without_code, settings, tmp_path, name
):
    check_equal(settings, name, tmp_path)
    assert counters["stats"]["unique_graphs"] > 0
    assert name in BREAKS or not counters["graph_break"], dict(counters["graph_break"])
    assert name in BREAKS or counters["stats"]["unique_graphs"] <= 8  # each under few conditions


def test_fixed_shapes_are_compiled_once_and_clips_not_at_all(without_code, settings, tmp_path):
    torch._dynamo.reset()
    _, trainer = train(settings("cleaner"), tmp_path, "trainer.compile=true")
    counters.clear()
    trainer.step()
    trainer.validate()
    assert not counters["stats"], dict(counters["stats"])


def test_a_compiled_run_resumes_bit_for_bit(without_code, settings, tmp_path, end_of):
    words = [*settings("cleaner"), "trainer.compile=true", "trainer.log_every=1"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    begin(*words, f"trainer.output_dir={whole}", "trainer.max_steps=4").run()
    begin(*words, f"trainer.output_dir={half}", "trainer.max_steps=2").run()
    begin(f"trainer.ckpt_dir={half}", "trainer.max_steps=4").run()
    assert end_of(half) == end_of(whole)


@pytest.mark.slow
def test_the_compilers_own_code_computes_the_same(settings, tmp_path):
    check_equal(settings, "cleaner", tmp_path)


HIT = """
import os, subprocess, sys
os.setsid()
from captured import leave_out_code
leave_out_code()
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare

trainer = prepare(compose_run(sys.argv[1:]), start("cpu"))
passes = trainer.recipe.passes

def with_a_compiler(*given):
    subprocess.run(["sh", "-c", "kill -TERM 0"], check=True)  # all of the group, itself too
    yield from passes(*given)

trainer.recipe.passes = with_a_compiler
assert trainer.run() is False
"""


@pytest.mark.slow
def test_a_signal_to_all_processes_spares_the_compiler_of_a_step(tiny_stages, tmp_path, run_script):
    """As torchrun sends it on: the step ends, and is saved."""
    script = tmp_path / "script.py"
    script.write_text(HIT)
    words = [*tiny_stages["cleaner"], "trainer.compile=true", f"trainer.output_dir={tmp_path}"]
    assert "step 1: stopped by a signal, and saved" in run_script(script, *words).stdout
