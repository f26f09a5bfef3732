"""EnCodec as it trains: `transformers`' own modules, and what they lack, the codebooks' training.

Défossez et al., "High Fidelity Neural Audio Compression" (2022, arXiv 2210.13438), sections 3.1 and
3.2: a residual vector quantiser, whose codebooks follow the mean of what they stand for (van den
Oord et al. 2017, arXiv 1711.00937, appendix A.1), and whose unused codes begin anew at vectors of
the batch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from open_miipher.base.noise import uniform, white_noise
from open_miipher.base.precision import in_float32
from open_miipher.distributed import gathered

_SPEECH_RMS = 0.1  # full scale 1
_EPSILON = 1e-5  # a code that nobody uses has this count, and no division by 0


@dataclass
class EncodecNetworkConfig:
    """The sizes of an EnCodec, by the names that `transformers` has for them where it has some.

    Attributes:
        sample_rate: in Hz.
        num_filters: channels at the sample rate; every strided convolution doubles them.
        hidden_size: of an embedding, and of the codes.
        upsampling_ratios: of the decoder; the encoder has them in reverse. Their product is the
            samples a frame.
        num_residual_layers: between two strided convolutions.
        num_lstm_layers: of the encoder, and of the decoder.
        codebooks: tokens a frame.
        codebook_size: a power of 2.
        decay: of the mean that a code follows, at each step.
        restart_below: a code that is used less than this share of an equal one begins anew.
        unquantised: share of a batch that is decoded from the embeddings themselves (Défossez et
            al. 2024, arXiv 2410.00037, section 3.3.1): what can be told by sound alone is learnt
            before the codes are good.
    """

    sample_rate: int = 24000
    num_filters: int = 10
    hidden_size: int = 32
    upsampling_ratios: list[int] = field(default_factory=lambda: [5, 4, 4, 4])
    num_residual_layers: int = 1
    num_lstm_layers: int = 1
    codebooks: int = 2
    codebook_size: int = 1024
    decay: float = 0.99
    restart_below: float = 0.03
    unquantised: float = 0.25


class Encodec(nn.Module):
    """An EnCodec that trains.

    The codebooks are buffers, and part of the weights of a checkpoint. A step changes them in
    `forward`, by the vectors of all ranks in the order of their positions, so that they do not
    depend on how a batch is shared out.

    Args:
        config: sizes.

    Attributes:
        model: `transformers`' own.
        sample_rate: in Hz.
        hop: samples a frame.
    """

    Config: ClassVar[type] = EncodecNetworkConfig

    def __init__(self, config: EncodecNetworkConfig) -> None:
        super().__init__()
        from transformers import EncodecConfig, EncodecModel

        self.config, self.sample_rate = config, config.sample_rate
        settings = EncodecConfig(
            sampling_rate=config.sample_rate,
            num_filters=config.num_filters,
            hidden_size=config.hidden_size,
            upsampling_ratios=list(config.upsampling_ratios),
            num_residual_layers=config.num_residual_layers,
            num_lstm_layers=config.num_lstm_layers,
            codebook_size=config.codebook_size,
        )
        bits = config.codebooks * settings.codebook_nbits * settings.frame_rate
        settings.target_bandwidths = [bits / 1000]
        self.hop: int = settings.hop_length
        self.model = EncodecModel(settings)
        keep_level(self.model)

    def forward(self, waveform: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode, quantise and decode.

        Args:
            waveform: (batch, samples).
            keys: (batch,) int64, one of each item's own, from `stream_keys`: their order decides in
                which order the vectors of a batch count, and they choose what unused codes become.
                None: the codebooks stay as they are.

        Returns:
            The decoded waveform (batch, samples), and the commitment loss (batch,): how far the
            embeddings are from their codes, squared, summed over the codebooks.
        """
        from open_miipher.codec.streaming import Stream

        lengths = [waveform.shape[1]] * len(waveform)
        embeddings = Stream().run(self.model.encoder.layers, waveform[:, None], lengths)
        with in_float32(waveform.device):
            quantised, commitment = self._quantise(embeddings.float().transpose(1, 2), keys)
        frames = [quantised.shape[1]] * len(waveform)
        decoded = Stream().run(self.model.decoder.layers, quantised.transpose(1, 2), frames)
        return decoded[:, 0, : waveform.shape[1]], commitment

    def save(self, folder: Path) -> None:
        """Write what `transformers`' `EncodecModel.from_pretrained` reads, in float16."""
        from transformers import EncodecModel

        copy = EncodecModel(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        copy.half().save_pretrained(folder)

    def _quantise(self, embeddings: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the codes' sum, through which gradients pass straight, and the commitment loss.

        Args:
            embeddings: (batch, frames, width) float32.
            keys: see `forward`.
        """
        residual, distances = embeddings, []
        order = None if keys is None else _Order(keys, embeddings.shape[1])
        for layer in self.model.quantizer.layers:
            codebook, vectors = layer.codebook, residual.detach()
            if order is not None:
                seen = order.sorted(vectors)
                self._restart(codebook, seen, seen[order.shuffled])
            codes = codebook.encode(vectors)
            chosen = codebook.decode(codes)
            if order is not None:
                self._follow(codebook, seen, order.sorted(codes))
            distances.append((residual - chosen).square().mean(dim=(1, 2)))
            residual = residual - chosen
        missing = residual.detach()
        if keys is not None:
            is_quantised = uniform(keys) >= self.config.unquantised
            missing = missing * is_quantised[:, None, None]
        return embeddings - missing, torch.stack(distances).sum(0)

    @torch.no_grad()
    def _restart(self, codebook: Any, seen: Tensor, candidates: Tensor) -> None:
        """Put codes that are hardly used where vectors of the batch are; at first, all of them."""
        equal = len(seen) / self.config.codebook_size
        unused = codebook.cluster_size < self.config.restart_below * equal
        unused &= seen.isfinite().all()
        place = (unused.long().cumsum(0) - 1).clamp_min(0) % len(candidates)
        fresh = candidates[place]
        codebook.embed.copy_(torch.where(unused[:, None], fresh, codebook.embed))
        codebook.embed_avg.copy_(torch.where(unused[:, None], fresh * equal, codebook.embed_avg))
        codebook.cluster_size.copy_(torch.where(unused, equal, codebook.cluster_size))

    @torch.no_grad()
    def _follow(self, codebook: Any, seen: Tensor, codes: Tensor) -> None:
        """Move each code towards the mean of the vectors that it stood for in this step."""
        weight = (1.0 - self.config.decay) * seen.isfinite().all().float()
        used = nn.functional.one_hot(codes, self.config.codebook_size).float()
        sums = used.T @ torch.where(weight > 0, seen, 0.0)  # index_add_ is not deterministic
        codebook.cluster_size.lerp_(used.sum(0), weight)
        codebook.embed_avg.lerp_(sums, weight)
        codebook.embed.copy_(codebook.embed_avg / (codebook.cluster_size + _EPSILON)[:, None])


def keep_level(model: Any) -> None:
    """Draw weights through which a signal keeps its level.

    `transformers` leaves torch's own, which take away half of it in every layer, so that what is
    left of speech behind the encoder is nothing beside the biases.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    for convolution in convolutions:
        fan_in = convolution.in_channels * convolution.kernel_size[0]
        if isinstance(convolution, nn.ConvTranspose1d):
            fan_in //= convolution.stride[0]
        convolution.weight = torch.randn_like(convolution.weight) * fan_in**-0.5
        nn.init.zeros_(convolution.bias)
    first, last = model.encoder.layers[0].conv, model.decoder.layers[-1].conv
    first.weight, last.weight = first.weight / _SPEECH_RMS, last.weight * _SPEECH_RMS


class _Order:
    """The order of all vectors of a step, over all ranks: by the keys of their items.

    Args:
        keys: (batch,) of this rank's items.
        frames: vectors of an item.

    Attributes:
        shuffled: the places of the sorted vectors, in an order drawn from the keys.
    """

    def __init__(self, keys: Tensor, frames: int) -> None:
        keys = gathered(keys)
        self._order = keys.argsort()
        keys = keys[self._order]
        self.shuffled = white_noise(keys, torch.zeros_like(keys), frames).flatten().argsort()

    def sorted(self, values: Tensor) -> Tensor:
        """Return (batch, frames, …) of this rank as (vectors, …) of all ranks."""
        return gathered(values)[self._order].flatten(0, 1)
