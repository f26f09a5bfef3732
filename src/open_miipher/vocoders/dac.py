"""DAC's decoder as a vocoder, as Sidon uses it: from features to 48 kHz."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from open_miipher.base.errors import report
from open_miipher.base.precision import as_stored, in_float32, stay_in_float32
from open_miipher.encoders.base import frame_mask
from open_miipher.layers.pointwise import Snake, fuse
from open_miipher.vocoders.base import AdversarialGenerator, CropPieces, cut, ending, see_ends
from open_miipher.vocoders.gain import at_peak_of


@dataclass
class DacConfig:
    """Sizes; the defaults are Sidon's, for features at 50 Hz (arXiv 2509.17052, section 2.2).

    Attributes:
        sample_rate: of the waveform, in Hz.
        channels: channels after the first convolution; each upsampling halves them.
        upsampling_rates: factors of the upsampling; their product is the number of samples per
            feature frame.
        weight_norm: whether every convolution is weight-normalised, as in DAC.
    """

    sample_rate: int = 48000
    channels: int = 1536
    upsampling_rates: list[int] = field(default_factory=lambda: [8, 5, 4, 3, 2])
    weight_norm: bool = True


class Dac(AdversarialGenerator):
    """Transposed convolutions and dilated residual units with snake activations.

    Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (NeurIPS 2023, arXiv
    2306.06546), section 3.1; the network is transformers' `DacDecoder`. There is one output and no
    noise. Targets are scaled so that the whole crop that the encoder has seen has peak 0.9; a quiet
    piece of it stays quiet. The features do not contain the absolute level, so a chunk's output
    has a level of its own.

    An upsampling by an odd rate gives one sample less than it should, so the network's output is
    shorter than `frames * hop_length` (by 26 samples at Sidon's rates). It begins with the first
    frame, as in Sidon, and its end is filled with zeros.
    """

    Config = DacConfig
    needs_noise = False
    restores_level = False

    def __init__(self, feature_width: int, frame_rate: float, config: DacConfig) -> None:
        """Make a vocoder for features of a given kind.

        Args:
            feature_width: values per feature frame.
            frame_rate: feature frames per second.
            config: sizes.

        Raises:
            UserError: the features do not fit the configuration.
        """
        # Imported here, because this package is also imported where no pretrained model is used.
        from transformers import DacConfig as DecoderConfig
        from transformers.models.dac.modeling_dac import DacDecoder, Snake1d

        super().__init__()
        self.sample_rate = config.sample_rate
        self.hop_length = math.prod(config.upsampling_rates)
        _check(config, frame_rate, self.hop_length)
        sizes = DecoderConfig(
            hidden_size=feature_width,
            decoder_hidden_size=config.channels,
            upsampling_ratios=config.upsampling_rates,
        )
        self.decoder = DacDecoder(sizes)
        for module in list(self.decoder.modules()):
            for name, child in module.named_children():
                if isinstance(child, Snake1d):
                    setattr(module, name, Snake(child.alpha))
        if config.weight_norm:
            for module in list(self.decoder.modules()):
                if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                    weight_norm(module)
        stay_in_float32(self.decoder.conv1, self.decoder.snake1, self.decoder.conv2)
        rate = 1
        see_ends(self.decoder.conv1, rate)
        for block, factor in zip(self.decoder.block, config.upsampling_rates, strict=True):
            see_ends(block.conv_t1, rate)
            rate *= factor
            for unit in _units(block):
                see_ends(unit, rate)
        see_ends(self.decoder.conv2, rate)
        self.num_missing = missing_samples(config.upsampling_rates)
        self.margin_frames = reach(config.upsampling_rates)

    def forward(
        self,
        features: Tensor,
        noise: Tensor,
        pieces: CropPieces | None = None,
        frame_lengths: Tensor | None = None,
    ) -> list[Tensor]:
        """Vocode; see `AdversarialGenerator.forward`. The one output is float32.

        A piece is decoded with its margins: without them it would see the decoder's padding, which
        restoring has at the ends of a file alone.
        """
        if pieces is None:
            return [self._decode_clips(features, frame_lengths)]
        size = min(features.shape[1], pieces.num_frames + 2 * self.margin_frames)
        first = (pieces.starts - self.margin_frames).clamp(0, features.shape[1] - size)
        decoded = self._decode(cut(features, pieces.crops, first, size))
        rows = torch.arange(len(decoded), device=decoded.device)
        within = (pieces.starts - first) * self.hop_length
        return [cut(decoded, rows, within, pieces.num_frames * self.hop_length)]

    def _decode_clips(self, features: Tensor, frame_lengths: Tensor | None) -> Tensor:
        if frame_lengths is None:
            return self._decode(features)
        with ending(features.shape[1] - frame_lengths):
            decoded = self._decode(features)
        heard = frame_lengths * self.hop_length - self.num_missing
        return decoded * frame_mask(heard, decoded.shape[1])

    def _decode(self, features: Tensor) -> Tensor:
        """(batch, frames, feature_width) -> (batch, frames * hop_length)."""
        decoder = self.decoder
        with in_float32(features.device):
            x = decoder.conv1(features.float().transpose(1, 2))
        x, shortcut = as_stored(x, decoder.block), None
        for block in decoder.block:
            x, shortcut = block.conv_t1(block.snake1(x, shortcut)), None
            for unit in _units(block):
                shortcut, x = unit.snake1.with_sum(x, shortcut)
                x = unit.conv2(unit.snake2(unit.conv1(x)))
        with in_float32(features.device):
            waveform = decoder.tanh(decoder.conv2(decoder.snake1(x, shortcut, dtype=torch.float32)))
        return functional.pad(waveform[:, 0], (0, self.num_missing))

    def target(self, clean: Tensor, whole: Tensor) -> Tensor:
        """See `at_peak_of`."""
        return at_peak_of(whole, clean)

    def merge(self, on_gpu: bool) -> None:
        """On a GPU, have snakes add the biases before them; see `Vocoder.merge`."""
        if not on_gpu:
            return
        fuse(self.decoder)
        before: nn.Conv1d | nn.ConvTranspose1d | None = None
        for block in self.decoder.block:
            if before is not None:
                block.snake1.take_bias(before)
            before = block.conv_t1
            for unit in _units(block):
                unit.snake1.take_bias(before)
                unit.snake2.take_bias(unit.conv1)
                before = unit.conv2
        self.decoder.snake1.take_bias(before)


def _units(block: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the residual units of a block of the stock decoder."""
    return block.res_unit1, block.res_unit2, block.res_unit3


def missing_samples(upsampling_rates: list[int]) -> int:
    """Return by how many samples the output is shorter than frames × the product of the rates."""
    missing = 0
    for rate in upsampling_rates:
        missing = missing * rate + rate % 2
    return missing


def reach(upsampling_rates: list[int]) -> int:
    """Return by how many frames, at most, a sample is from those that it depends on.

    Each upsampling's kernel spans two of its input's samples, and its residual units, with kernels
    of 7 at dilations 1, 3 and 9, reach 39 samples of its output; so do the first and the last
    convolution, of kernel 7, 3 of theirs.
    """
    frames, rate = 3.0, 1
    for factor in upsampling_rates:
        frames += 1 / rate
        rate *= factor
        frames += 39 / rate
    return math.ceil(frames + 3 / rate)


def _check(config: DacConfig, frame_rate: float, hop_length: int) -> None:
    problems = []
    if not config.upsampling_rates or min(config.upsampling_rates) < 2:
        problems.append(
            f"the vocoder's upsampling_rates={config.upsampling_rates} must each be at least 2"
        )
    elif abs(config.sample_rate / frame_rate - hop_length) > 1e-6 * hop_length:
        problems.append(
            f"the vocoder makes {hop_length} samples per feature frame (the product of "
            f"upsampling_rates={config.upsampling_rates}), but {frame_rate:g} frames/s at "
            f"sample_rate {config.sample_rate} need {config.sample_rate / frame_rate:g}"
        )
    smallest = 2 ** len(config.upsampling_rates)
    if config.channels < smallest or config.channels % smallest:
        problems.append(
            f"the vocoder's channels={config.channels} must be a multiple of {smallest}: each of "
            f"its {len(config.upsampling_rates)} upsampling_rates halves them"
        )
    report(problems)
