"""Published weights of another code base, imported: same outputs, or one sentence."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from open_miipher.restoration import Chain, Restorer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
import sidon  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return sidon.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def decoder():
    return sidon.descripts_decoder()


@pytest.fixture(scope="module")
def published(tmp_path_factory, base, decoder):
    return sidon.write_published(tmp_path_factory.mktemp("published"), base, decoder)


def run(base: Path, path: Path, output_dir: Path) -> int:
    """Run the command in this process; the exit status."""
    arguments = ["--kind", "sidon", "--path", path, "--output-dir", output_dir]
    script = str(ROOT / "src/import_checkpoint.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments), "--encoder-source", str(base)])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
    return end.value.code


@pytest.fixture(scope="module")
def imported(tmp_path_factory, base, published):
    output_dir = tmp_path_factory.mktemp("imported") / "sidon"
    assert run(base, published, output_dir) == 0
    return output_dir


def tone(num_samples: int, rate: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(num_samples) / rate
    sweep = np.sin(2 * np.pi * (200 * t + 300 * t**2)) * (1 + np.sin(9 * t))
    return (0.2 * sweep + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)


def stock_features(base: Path, waveform: np.ndarray) -> torch.Tensor:
    """Stock extractor, stock model, peft's adapters: (1, frames, width)."""
    from transformers import SeamlessM4TFeatureExtractor

    padded = np.pad(waveform, (40, 200))  # 40 as Sidon has it; then the last window is whole
    extractor = SeamlessM4TFeatureExtractor.from_pretrained(base)
    values = extractor([padded], sampling_rate=16000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        return sidon.with_adapters(base)(input_features=values).last_hidden_state


def test_features_and_audio_are_those_of_the_originals(imported, base, decoder):
    chain = Chain.from_checkpoint(imported)
    assert (chain.input_rate, chain.input_hop) == (16000, 320)
    assert (chain.output_rate, chain.output_hop) == (48000, 960)
    waveform = tone(50 * 320, 16000)
    batch, lengths = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
    features = stock_features(base, waveform)
    with torch.no_grad():
        cleaned, _ = chain.cleaner(batch, lengths)
        expected = decoder(cleaned.transpose(1, 2))[:, 0]
    torch.testing.assert_close(cleaned, features, atol=2e-5, rtol=1e-4)
    nothing = torch.zeros(1, dtype=torch.int64)
    restored = chain.restore(batch, lengths, nothing, nothing)
    assert restored.shape == (1, 50 * 960)
    assert expected.std() > 1e-3
    torch.testing.assert_close(restored[:, :-26], expected, atol=1e-5, rtol=1e-5)


def test_it_restores(imported):
    for num_samples, rate in ((16001, 16000), (50000, 48000), (777, 8000)):
        restorer = Restorer.from_checkpoint(imported, device="cpu")
        restored, rate_out = restorer.restore(tone(num_samples, rate), rate)
        assert rate_out == 48000
        assert len(restored) == round(num_samples * 48000 / rate)
        assert np.isfinite(restored).all()
        assert restored.any()


TINY = ["data.crop_seconds=3"]
TINY += ["trainer.batch_size=2", "trainer.num_workers=0", "trainer.device=cpu", "trainer.amp=no"]
TINY += ["trainer.max_steps=1", "trainer.sample_every=0", "trainer.logger.kind=none"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["predictor", "pretrain", "finetune"])
def test_training_goes_on_as_every_stage(imported, base, stage, speech_dir, tmp_path):
    from open_miipher.checkpoint import Checkpoint, weights_of
    from open_miipher.config import compose_run
    from open_miipher.distributed import start
    from open_miipher.training import prepare

    before = Checkpoint.open(imported)
    encoder = [f"model.encoder.source={base}", "model.encoder.layer=2"]
    lora = ["model.cleaner.rank=4", "model.cleaner.alpha=2.0"]
    settings = {
        "predictor": ["model=sidon_feature_predictor", *encoder, *lora],
        "pretrain": ["model=sidon_vocoder_pretrain", *encoder, "model.vocoder.channels=32"],
        "finetune": ["model=sidon_vocoder_finetune"],
    }[stage]
    sources = {
        "finetune": [f"model.cleaner_ckpt_dir={imported}", f"model.vocoder_ckpt_dir={imported}"]
    }.get(stage, [f"trainer.init_from={imported}"])
    piece = [] if stage == "predictor" else ["model.segment_seconds=0.1"]
    overrides = [
        *settings,
        *sources,
        *piece,
        f"data.train.dir_list=[{speech_dir}]",
        *TINY,
        f"trainer.output_dir={tmp_path}",
    ]
    trainer = prepare(compose_run(overrides), start("cpu"))
    for name in (*trainer.recipe.trained, *trainer.recipe.frozen):
        expected = before.weights(name)
        for key, tensor in weights_of(trainer.recipe.saved[name]).items():
            assert torch.equal(tensor, expected[key]), (name, key)
    trainer.step()
    assert all(np.isfinite(value) for value in trainer.read().values())


def spoil(published: Path, folder: Path, how: str) -> Path:
    shutil.copytree(published, folder)
    weights, decoder = folder / "adapter_model.safetensors", folder / "decoder_state_dict.pt"
    adapters, state = load_file(weights), torch.load(decoder, weights_only=True)
    settings = json.loads((folder / "adapter_config.json").read_text())
    first = sorted(name for name in adapters if name.endswith("lora_A.weight"))[0]
    if how == "adapter missing":
        del adapters[first]
    elif how == "adapter too many":
        adapters["base_model.model.encoder.layers.0.ffn3.lora_A.weight"] = torch.zeros(1)
    elif how == "adapter shape":
        adapters[first] = torch.zeros(3, 3)
    elif how == "decoder missing":
        del state["model.2.block.1.weight_v"]
    elif how == "decoder too many":
        state["model.99.bias"] = torch.zeros(1)
    elif how == "decoder shape":
        state["model.7.bias"] = torch.zeros(3)
    elif how == "another rank":
        settings["r"] = 8
    elif how == "dora":
        settings["use_dora"] = True
    elif how == "code":
        state["model.0.bias"] = Path("somewhere")  # type: ignore[assignment]
    save_file(adapters, weights)
    torch.save(state, decoder)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if how.startswith("no "):
        (folder / how.removeprefix("no ")).unlink()
    if how.startswith("torn "):
        path = folder / how.removeprefix("torn ")
        path.write_bytes(path.read_bytes()[:40])
    return folder


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("adapter missing", "lacks base_model.model.encoder.layers.0.ffn1.output_dense.lora_A"),
        ("adapter too many", "holds base_model.model.encoder.layers.0.ffn3.lora_A.weight"),
        ("adapter shape", "has shape (3, 3), but (4, 48) is needed"),
        ("decoder missing", "lacks model.2.block.1.weight_v"),
        ("decoder too many", "holds model.99.bias"),
        ("decoder shape", "another architecture"),
        ("another rank", "is needed"),
        ("dora", "use_dora=True; only plain LoRA"),
        ("code", "cannot be read as a file of tensors"),
        ("no adapter_config.json", "adapter_config.json cannot be read"),
        ("no adapter_model.safetensors", "adapter_model.safetensors cannot be read"),
        ("no decoder_state_dict.pt", "decoder_state_dict.pt cannot be read"),
        ("torn adapter_model.safetensors", "adapter_model.safetensors cannot be read"),
        ("torn decoder_state_dict.pt", "decoder_state_dict.pt cannot be read"),
        ("torn adapter_config.json", "is no settings file of peft's LoRA"),
    ],
)
def test_a_spoilt_folder_is_refused_in_a_sentence(how, words, base, published, tmp_path, capsys):
    folder = spoil(published, tmp_path / "spoilt", how)
    assert run(base, folder, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_adapters_without_biases_take_the_encoders(base, published, tmp_path, capsys):
    """Older versions of peft left the biases out."""
    folder = shutil.copytree(published, tmp_path / "published")
    weights = folder / "adapter_model.safetensors"
    kept = {n: t for n, t in load_file(weights).items() if not n.endswith("bias")}
    save_file(kept, weights)
    assert run(base, folder, tmp_path / "out") == 0
    assert f"warning: {weights} holds no biases; the encoder's own are" in capsys.readouterr().err
    cleaner = Chain.from_checkpoint(tmp_path / "out").cleaner
    for name, tensor in cleaner.trained_state_dict().items():
        if name in kept:
            assert torch.equal(tensor, kept[name])
    assert len(cleaner.trained_state_dict()) == len(kept) * 3 // 2


def test_an_output_that_holds_checkpoints_is_left_alone(imported, base, published, capsys):
    assert run(base, published, imported) == 2
    assert "holds checkpoints already" in capsys.readouterr().err
