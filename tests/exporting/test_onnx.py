"""Chains as ONNX beside themselves, and the example that restores without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speech import voice
from torch import Tensor, nn

from open_miipher.audio import fourier
from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS
from open_miipher.cleaners.untouched import Untouched
from open_miipher.encoders import ENCODERS, Encoder
from open_miipher.exporting.onnx import export_onnx
from open_miipher.restoration import Chain, RestoreOptions, Restorer
from open_miipher.vocoders import VOCODERS, Vocoder

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MEL = {"sample_rate": 24000, "n_fft": 2048, "hop_length": 300, "n_mels": 16}


def wavefit_chain() -> Chain:
    """The parts of the demo's chain, tiny and of random weights, all kinds of steps kept."""
    torch.manual_seed(0)
    generator = {
        "condition_channels": 8,
        "stem_channels": 4,
        "down_channels": [4],
        "up_channels": [8, 4],
        "up_factors": [5, 5],
        "dilations": [[1, 2, 1, 2]] * 2,
        "fold": 12,
    }
    sizes = {"width": 16, "num_blocks": 1, "num_heads": 2, "feed_forward_width": 16}
    encoder = build(ENCODERS, {"name": "log_mel", **MEL})
    cleaner = build(CLEANERS, {"name": "conformer", **sizes}, encoder)
    vocoder = build(
        VOCODERS,
        {
            "name": "wavefit",
            "num_iterations": 2,
            "gain": "power",
            "mel": MEL,
            "griffin_lim_steps": 2,
            "generator": generator,
        },
        encoder.width,
        encoder.frame_rate,
    )
    for parameter in (*cleaner.parameters(), *vocoder.parameters()):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)
    return Chain(cleaner, vocoder)


def small_vocoder(encoder: Encoder) -> Vocoder:
    """A tiny WaveFit of random weights at 24 kHz, for features at 50 or 25 Hz without a level."""
    generator = {
        "condition_channels": 8,
        "stem_channels": 4,
        "down_channels": [4],
        "up_channels": [8, 4],
        "up_factors": [24, 20],
        "dilations": [[1, 2, 1, 2]] * 2,
    }
    factor = round(50 / encoder.frame_rate)
    spec = {"name": "wavefit", "num_iterations": 1, "upsample_factor": factor}
    return build(
        VOCODERS, {**spec, "generator": generator}, encoder.width, encoder.frame_rate
    ).eval()


def write(chain: Chain, path: Path, half: bool = False) -> Path:
    grid = RestoreOptions(chunk_seconds=4.0, overlap_seconds=1.0).grid(chain)
    metadata = {
        "input_rate": chain.input_rate,
        "input_hop": chain.input_hop,
        "output_rate": chain.output_rate,
        "output_hop": chain.output_hop,
        "restores_level": chain.restores_level,
        "chunk_frames": grid.chunk_frames,
        "overlap_frames": grid.overlap_frames,
    }
    export_onnx(chain.cleaner, chain.vocoder, path, metadata, half)
    return path


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> Path:
    return write(Chain.from_checkpoint(), tmp_path_factory.mktemp("onnx") / "model.onnx")


def batch(chain: Chain, lengths: list[int], hiss: float) -> tuple[np.ndarray, np.ndarray]:
    """Return speech-like clips with hiss, and the noise that a vocoder starts from."""
    num_frames = -(-max(lengths) // chain.input_hop)
    waveform = np.zeros((len(lengths), num_frames * chain.input_hop), np.float32)
    for number, length in enumerate(lengths):
        clip = voice(number, length / chain.input_rate + 0.1, chain.input_rate)[:length]
        waveform[number, :length] = clip + hiss * np.random.default_rng(number).normal(size=length)
    size = (len(lengths), num_frames * chain.output_hop)
    return waveform, np.random.default_rng(0).standard_normal(size).astype(np.float32)


def in_torch(
    chain: Chain, waveform: np.ndarray, lengths: list[int], noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the chain makes of clips, and a mask of the samples that count."""
    with torch.inference_mode():
        features, frames = chain.cleaner(torch.from_numpy(waveform), torch.tensor(lengths))
        restored = chain.vocoder.generate(features, torch.from_numpy(noise), frames).numpy()
    return restored, np.arange(noise.shape[1]) < frames.numpy()[:, None] * chain.output_hop


def differ(chain: Chain, path: Path, lengths: list[int], hiss: float = 0.0) -> float:
    """Return the largest difference of a batch of speech-like clips with hiss, full scale 1."""
    waveform, noise = batch(chain, lengths, hiss)
    expected, valid = in_torch(chain, waveform, lengths, noise)
    session = ort.InferenceSession(path)
    given = {"waveform": waveform, "lengths": np.array(lengths), "noise": noise}
    restored = session.run(None, given)[0]
    assert restored.shape == expected.shape
    assert np.abs(expected).max() > 1e-5
    return float(np.abs((restored - expected) * valid).max())


@pytest.mark.parametrize("lengths", [[1], [700], [24_000, 9_001], [5, 40_000, 40_000, 39_000]])
def test_the_default_chain_gives_the_same_for_any_batch_and_length(default, lengths):
    assert differ(Chain.from_checkpoint(), default, lengths) < 1e-4


def test_the_example_restores_as_the_restorer_does_without_torch(default, tmp_path):
    rate = 44_100
    waveform = np.stack([0.2 * voice(1, 11.3, rate), 0.6 * voice(1, 11.3, rate)])
    # As every recording has it: in bins with nothing but rounding, rounding decides what is made.
    waveform += 2e-3 * np.random.default_rng(0).standard_normal(waveform.shape)
    waveform[:, 3 * rate : 4 * rate] = 0
    soundfile.write(tmp_path / "in.wav", waveform.T, rate, "FLOAT")
    program = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['open_miipher'] = None; "
        f"sys.argv[0] = {str(ROOT / 'examples/restore_onnx.py')!r}; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [default, tmp_path / "in.wav", tmp_path / "out.wav"]
    subprocess.run([sys.executable, "-c", program, *map(str, words)], check=True)
    restored, restored_rate = soundfile.read(tmp_path / "out.wav")
    options = RestoreOptions(chunk_seconds=4.0, overlap_seconds=1.0)
    restorer = Restorer.from_checkpoint(options=options, device="cpu")
    expected, expected_rate = restorer.restore(waveform.astype(np.float32), rate)
    assert (restored_rate, len(restored)) == (expected_rate, expected.shape[1])
    assert np.abs(restored - expected[0]).max() < 1e-4  # 16 bits are a third of it


def test_the_loop_of_wavefit_is_unrolled(tmp_path):
    chain = wavefit_chain()
    path = write(chain, tmp_path / "model.onnx")
    # As every recording has it: the mel of a band with nothing but rounding is rounding's own.
    for lengths in ([1], [700], [24_000, 9_001], [5, 40_000, 40_000, 39_000]):
        assert differ(chain, path, lengths, hiss=2e-3) < 1e-4
    names = [given.name for given in ort.InferenceSession(path).get_inputs()]
    assert names == ["waveform", "lengths", "noise"]


@pytest.mark.parametrize(("hiss", "least", "most"), [(0.0, 1e-3, 1.0), (2e-3, 0.0, 1e-5)])
def test_in_bands_with_nothing_but_rounding_torch_follows_rounding_too(hiss, least, most):
    chain, lengths = wavefit_chain(), [24_000, 9_001]
    waveform, noise = batch(chain, lengths, hiss)
    nudge = 1 + 1e-7 * np.random.default_rng(5).standard_normal(waveform.shape)
    before, valid = in_torch(chain, waveform, lengths, noise)
    after, _ = in_torch(chain, (waveform * nudge).astype(np.float32), lengths, noise)
    assert least <= np.abs((after - before) * valid).max() < most


def pretrained(kind: str, folder: Path) -> Encoder:
    """A tiny encoder of random weights, of a class of transformers, from its folder."""
    import transformers
    from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    if kind == "gemma4":
        config = Gemma4AudioConfig(**size, subsampling_conv_channels=[128, 4], output_proj_dims=16)
        model = Gemma4AudioModel(config)
        for number, (name, bound) in enumerate(model.named_buffers()):  # each layer has its own
            if name.endswith(("_min", "_max")):
                bound.fill_((-1 if name.endswith("_min") else 1) * (2 + 0.1 * number))
        model.save_pretrained(folder)
        return build(ENCODERS, {"name": "usm_gemma4", "source": str(folder), "num_layers": 1})
    if kind == "wavlm":
        config = transformers.WavLMConfig(
            **size,
            intermediate_size=48,
            conv_dim=[16] * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
        transformers.WavLMModel(config).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    else:
        config = transformers.Wav2Vec2BertConfig(**size, intermediate_size=48)
        transformers.Wav2Vec2BertModel(config).save_pretrained(folder)
    return build(ENCODERS, {"name": "transformers", "source": str(folder), "layer": 1})


@pytest.mark.parametrize("kind", ["w2v_bert", "wavlm", "gemma4"])
def test_a_pretrained_encoder_by_folder_is_exported(tmp_path, kind):
    encoder = pretrained(kind, tmp_path / kind)
    chain = Chain(Untouched(encoder), small_vocoder(encoder))
    path = write(chain, tmp_path / "model.onnx")
    for lengths in ([700], [16_000, 9_001], [30_000, 30_000, 5_000]):
        assert differ(chain, path, lengths, hiss=2e-3) < 1e-4


class Deciding(Encoder):
    """Looks at its samples to decide what to do, which no graph can hold."""

    sample_rate, hop_length, width = 24000, 300, 300

    def __init__(self) -> None:
        super().__init__()
        self.freeze()

    @property
    def layers(self) -> nn.ModuleList:
        return nn.ModuleList()

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        louder = waveform * 2 if waveform.max() > 1 else waveform
        return louder.unflatten(1, (-1, self.hop_length))


@pytest.mark.parametrize("kind", [KeyError, AssertionError, ZeroDivisionError])
def test_whatever_ends_the_tracing_the_part_is_named(tmp_path, kind, monkeypatch):
    def fails(*_):
        raise kind

    encoder = Deciding()
    monkeypatch.setattr(Deciding, "encode", fails)
    with pytest.raises(UserError, match=f"Deciding, cannot be exported to ONNX: {kind.__name__}"):
        export_onnx(Untouched(encoder), wavefit_chain().vocoder, tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


def test_the_part_that_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(UserError, match="the encoder, Deciding, cannot be exported to ONNX"):
        export_onnx(Untouched(Deciding()), wavefit_chain().vocoder, tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n", [96, 768])
def test_transforms_as_products_are_the_same(monkeypatch, n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(x, n)
    expected_short, exponential = torch.fft.rfft(x[:, :40], n), torch.exp(spectrum / n)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(fourier.rfft(x, n), spectrum, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(fourier.irfft(spectrum, n), x, atol=1e-5, rtol=1e-5)
    short = fourier.rfft(x[:, :40], n)
    torch.testing.assert_close(short, expected_short, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(fourier.exp(spectrum / n), exponential)
