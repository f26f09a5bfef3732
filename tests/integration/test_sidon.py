"""Sidon's three stages at a tiny size, from 48 kHz speech to 48 kHz restored; and a cross pairing.

The pretrained encoders have random weights, are saved locally and loaded by the real code.
"""

import io
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import waits

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.index import Entry, write_index
from open_miipher.restoration import Restorer
from open_miipher.shards import Sample, ShardWriter, read_samples
from open_miipher.training import Trainer, prepare

sys.path.insert(0, str(Path(__file__).parent))
import sidon

pytestmark = pytest.mark.integration

DISCRIMINATORS = [
    "model.discriminators.multi_period={periods: [3], channels: [4, 8]}",
    "model.discriminators.multi_band_stft={win_lengths: [256], channels: 4}",
]
MEL = "model.mel={n_mels: [10, 40], win_lengths: [128, 512], floor: 1.0e-5}"


def write_gemma(folder: Path) -> Path:
    """A tower of Gemma 4 with three layers and random weights."""
    from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

    torch.manual_seed(0)
    config = Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        subsampling_conv_channels=[128, 4],
        output_proj_dims=16,
    )
    Gemma4AudioModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairings(tmp_path_factory):
    """Encoder, cleaner and the decoder's rates: Sidon's own, and USM with the DAC decoder."""
    base = sidon.write_base(tmp_path_factory.mktemp("w2v"))
    gemma = write_gemma(tmp_path_factory.mktemp("gemma"))
    return {
        "sidon": (
            [f"model.encoder.source={base}", "model.encoder.layer=2"],
            ["model.cleaner.rank=4"],
            [],
        ),
        "usm": (
            [
                "encoder@model.encoder=usm_gemma4",
                f"model.encoder.source={gemma}",
                "model.encoder.num_layers=2",
            ],
            ["cleaner@model.cleaner=parallel_adapters", "model.cleaner.bottleneck=8"],
            ["model.vocoder.upsampling_rates=[8,8,5,3,2]"],
        ),
    }


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Four files of 48 kHz with something in every band, indexed."""
    root = tmp_path_factory.mktemp("speech48k")
    entries = []
    for number in range(4):
        rng = np.random.default_rng(number)
        t = np.arange(40000 + 5000 * number) / 48000
        syllables = np.clip(np.sin(2 * np.pi * 3 * t + number), 0, 1)
        tone = sum(np.sin(2 * np.pi * (130 + 20 * number) * k * t) / k for k in range(1, 80))
        waveform = syllables * (0.15 * tone + 0.02 * rng.standard_normal(len(t)))
        soundfile.write(root / f"{number}.wav", waveform, 48000)
        entries.append(Entry(f"{number}.wav", 48000, len(t), 1, {}))
    write_index(root, entries)
    return root


def common(speech: Path, output_dir: Path) -> list[str]:
    return [
        f"data.train.dir_list=[{speech}]",
        f"data.test.dir_list=[{speech}]",
        f"trainer.output_dir={output_dir}",
        "data.crop_seconds=3",
        "data.test.num_clips=1",
        "data.test.clip_seconds=0.5",
        "trainer.batch_size=2",
        "trainer.max_steps=2",
        "trainer.validate_every=2",
        "trainer.num_workers=0",
        "trainer.device=cpu",
        "trainer.amp=no",
        "trainer.sample_every=2",
        "trainer.num_samples=1",
        "trainer.logger.kind=none",
    ]


def stages(pairing, speech: Path, root: Path) -> list[list[str]]:
    """The overrides of the three stages."""
    encoder, cleaner, vocoder = pairing
    piece = ["model.segment_seconds=0.16", MEL]
    decoder = ["model.vocoder.channels=32", *vocoder, *DISCRIMINATORS]
    earlier = [f"model.cleaner_ckpt_dir={root / '1'}", f"model.vocoder_ckpt_dir={root / '2'}"]
    return [
        ["model=sidon_feature_predictor", *encoder, *cleaner, *common(speech, root / "1")],
        ["model=sidon_vocoder_pretrain", *encoder, *decoder, *piece, *common(speech, root / "2")],
        ["model=sidon_vocoder_finetune", *earlier, *piece, *common(speech, root / "3")],
    ]


def prepared(overrides: list[str]) -> Trainer:
    return prepare(compose_run(overrides), start("cpu"))


@pytest.mark.parametrize("name", ["sidon", pytest.param("usm", marks=pytest.mark.slow)])
def test_three_stages_and_restoration(name, pairings, speech, tmp_path):
    for overrides in stages(pairings[name], speech, tmp_path):
        prepared(overrides).run()
    first, second, third = (Checkpoint.open(tmp_path / number) for number in "123")
    for key, tensor in third.weights("cleaner").items():
        assert torch.equal(tensor, first.averaged_weights("cleaner")[key])
    assert second.weights("generator").keys() == third.weights("generator").keys()
    moved = {
        name: (tensor - second.averaged_weights("generator")[name]).abs().max()
        for name, tensor in third.weights("generator").items()
    }
    assert max(moved.values()) > 0
    restorer = Restorer.from_checkpoint(tmp_path / "3", device="cpu")
    rng = np.random.default_rng(0)
    for num_samples, rate in ((1, 48000), (959, 48000), (30001, 44100), (9000, 8000)):
        damaged = (0.1 * rng.standard_normal(num_samples)).astype(np.float32)
        restored, rate_out = restorer.restore(damaged, rate)
        assert rate_out == 48000
        assert len(restored) == max(1, int(num_samples * 48000 / rate + 0.5))
        assert np.isfinite(restored).all()


def test_no_step_of_any_stage_waits_for_the_device(pairings, speech, tmp_path):
    for overrides in stages(pairings["sidon"], speech, tmp_path):
        trainer = prepared(overrides)
        trainer.batches = iter(list(islice(trainer.batches, 2)))  # the loader works on the CPU
        trainer.step()  # makes what is made once
        with waits.counted() as seen:
            trainer.step()
        assert not seen
        trainer.save()


@pytest.mark.slow
def test_the_commands(pairings, speech, run_script, tmp_path):
    """As a user types them; the last stage is resumed."""
    for overrides in stages(pairings["sidon"], speech, tmp_path):
        run_script("src/train.py", *overrides)
    run_script("src/train.py", f"trainer.ckpt_dir={tmp_path / '3'}", "trainer.max_steps=3")
    assert Checkpoint.open(tmp_path / "3").state["step"] == 3
    out = tmp_path / "restored"
    options = ["--input-audio-dir", speech, "--output-dir", out, "--device", "cpu"]
    run_script("src/inference.py", "--ckpt-dir", tmp_path / "3", *options)
    for path in sorted(speech.glob("*.wav")):
        restored, original = soundfile.info(out / path.name), soundfile.info(path)
        assert (restored.frames, restored.samplerate) == (original.frames, 48000)


@pytest.mark.slow
def test_from_raw_recordings_through_shards_to_restored_shards(
    pairings, speech, run_script, tmp_path
):
    """Preprocess, train all three stages from the shards, restore the raw collection as shards."""
    raw = tmp_path / "raw.tar"
    with ShardWriter(raw) as writer:
        for path in sorted(speech.glob("*.wav")):
            members = {"wav": path.read_bytes(), "txt": path.stem.encode()}
            writer.add(Sample(path.stem, members))

    options = ["output_root", "writer_name", "shard_maxcount"]
    values = [tmp_path / "shards", "tiny", 2]
    run_script(
        "src/preprocess.py",
        "data=webdataset_preprocess_48k",
        f"data.train.urls=[{raw}]",
        f"data.test.dir_list=[{speech}]",
        "data.sample_seconds=0.7",
        *(f"preprocess.{name}={value}" for name, value in zip(options, values, strict=True)),
    )
    own = [
        "data=preprocessed_48k",
        f"data.train_urls={tmp_path}/shards/tiny/train",
        f"data.val_urls={tmp_path}/shards/tiny/val",
    ]
    for stage in stages(pairings["sidon"], speech, tmp_path):
        kept = [o for o in stage if not re.match(r"data\.(train|test)\.dir_list", o)]
        prepared([*kept, *own]).run()
    out = tmp_path / "restored"
    run_script(
        "src/inference.py", "--ckpt-dir", tmp_path / "3", "--input-shards", raw,
        "--output-dir", out, "--device", "cpu",
    )  # fmt: skip
    with (out / "raw.tar").open("rb") as file:
        samples = list(read_samples(file, "raw.tar"))
    for sample, path in zip(samples, sorted(speech.glob("*.wav")), strict=True):
        assert sample.key == path.stem
        assert sample.members["txt"] == path.stem.encode()
        restored, original = sample.members["wav"], soundfile.info(path)
        info = soundfile.info(io.BytesIO(restored))
        assert (info.frames, info.samplerate) == (original.frames, 48000)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.sample_rate=24000"], "makes 48000 Hz but data.sample_rate=24000"),
        (["model.vocoder.upsampling_rates=[8,5,4,3]"], "480 samples per feature frame"),
        (["model.vocoder.sample_rate=24000", "data.sample_rate=24000"], "need 480"),
        (["encoder@model.encoder=log_mel", "data.sample_rate=24000",
          "model.vocoder.sample_rate=24000", "model.vocoder.channels=32",
          "model.vocoder.upsampling_rates=[10,10,3]"], "log-mel features carry the level"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_at_the_start(
    overrides, words, pairings, speech, tmp_path
):
    stage = stages(pairings["sidon"], speech, tmp_path)[1]
    if "encoder@model.encoder=log_mel" in overrides:
        stage = [o for o in stage if not o.startswith("model.encoder.")]
        stage = [o for o in stage if not o.startswith("model.vocoder.")]
    with pytest.raises(UserError, match=words):
        prepared([*stage, *overrides])
    assert not list(tmp_path.glob("2/ckpt/step-*"))
