"""Speech to tokens and back with EnCodec (Défossez et al. 2022, arXiv 2210.13438)."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from open_miipher.base.errors import UserError, report
from open_miipher.base.precision import in_float32, without_parametrisations
from open_miipher.base.shipped import shipped
from open_miipher.encoders.pretrained import find_file, read_json

if TYPE_CHECKING:
    from open_miipher.codec.streaming import Stream

ENCODEC_24KHZ = "facebook/encodec_24khz"
DEMO_CODEC = shipped("pretrained/codec")
"""The small codec that comes with the project (`codec=demo`)."""

# Seconds of audio that are worked on at once, over a batch: all of its activations are in memory. A
# CPU is half as fast with 40 s, which are more than its caches hold.
_SECONDS_AT_ONCE = {"cpu": 8.0, "cuda": 640.0}


@dataclass(frozen=True)
class CodecConfig:
    """The codec of a configuration (`codec=encodec_24khz`, `codec=demo`).

    Attributes:
        source: hub id or folder of an EnCodec; `demo` is the one that comes with the project.
        bandwidth: in kb/s, one that the model offers.
    """

    source: str = ENCODEC_24KHZ
    bandwidth: float = 1.5


class AudioTokenizer:
    """An EnCodec of one channel that hears the past only: waveforms to tokens and back.

    Batches, and long signals in pieces, give what `transformers` gives for each signal alone and
    whole. Memory does not grow with length.

    Args:
        device: where to compute.
        source: see `CodecConfig`.
        bandwidth: see `CodecConfig`.

    Attributes:
        sample_rate: in Hz.
        hop: samples a frame.
        frame_rate: frames a second.
        codebooks: tokens a frame.
        codebook_size: tokens are 0 … codebook_size - 1.
        bandwidth: in kb/s.
        fingerprint: of the weights and the bandwidth, 16 hexadecimal digits.

    Raises:
        UserError: there is no such model, it is no EnCodec of this kind, it is damaged, or it has
            no such bandwidth.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        source: str = ENCODEC_24KHZ,
        bandwidth: float = 1.5,
    ) -> None:
        self.device = torch.device(device)
        model = _load(str(DEMO_CODEC) if source == "demo" else source, bandwidth)
        config = model.config
        self.sample_rate: int = config.sampling_rate
        self.hop: int = config.hop_length
        self.frame_rate = self.sample_rate / self.hop
        self.bandwidth = bandwidth
        self.codebooks: int = model.quantizer.get_num_quantizers_for_bandwidth(bandwidth)
        self.codebook_size: int = config.codebook_size
        self.fingerprint = _fingerprint(model, bandwidth)
        without_parametrisations(model)
        self._model = model.to(self.device)

    @classmethod
    def from_config(
        cls, config: CodecConfig, device: str | torch.device = "cpu"
    ) -> "AudioTokenizer":
        """Load the codec of a configuration."""
        return cls(device, config.source, config.bandwidth)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        """Turn waveforms into tokens.

        Args:
            waveforms: (batch, samples) at `sample_rate`, full scale ±1.
            lengths: (batch,) true samples of each; those after them are ignored.

        Returns:
            For each, (ceil(length / hop), codebooks) int16, on the CPU. Row by row, that is the
            order in time.
        """
        from open_miipher.codec.streaming import Stream

        stream, ends = Stream(), [int(length) for length in lengths.tolist()]
        step = self._frames_at_once(len(waveforms)) * self.hop
        longest = max(ends, default=0)
        pieces = [
            self._encode(
                waveforms[:, start : min(start + step, longest)], [e - start for e in ends], stream
            )
            for start in range(0, longest, step)
        ]
        codes = torch.cat(pieces, dim=1) if pieces else torch.zeros(len(ends), 0, self.codebooks)
        counts = [-(-end // self.hop) for end in ends]
        return [row[:count].to(torch.int16) for row, count in zip(codes, counts, strict=True)]

    def encode_stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Turn one long signal into tokens, piece by piece.

        Args:
            blocks: (samples,) each, of any lengths, one after the other.

        Yields:
            (frames, codebooks) int16 on the CPU; together what `encode` gives for the whole.
        """
        from open_miipher.codec.streaming import Stream

        stream = Stream()
        for piece in _recut(blocks, self._frames_at_once(1) * self.hop):
            yield self._encode(piece[None], [len(piece)], stream)[0].to(torch.int16)

    def decode(
        self, tokens: Sequence[Tensor], lengths: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Turn tokens into waveforms.

        Args:
            tokens: for each, (frames, codebooks), any integer type.
            lengths: samples of each waveform that was encoded; None: as many as the frames have.

        Returns:
            For each, (samples,) float32 on the CPU: frames · hop, or as many as `lengths` says.

        Raises:
            UserError: tokens are out of range, or of another number of codebooks.
        """
        from open_miipher.codec.streaming import Stream

        report([problem for each in tokens for problem in self._problems(each)])
        counts = [len(each) for each in tokens]
        if not any(counts):
            return [torch.zeros(0) for _ in tokens]
        padded = torch.nn.utils.rnn.pad_sequence([each.long() for each in tokens], True)
        stream, step = Stream(), self._frames_at_once(len(tokens))
        starts = range(0, padded.shape[1], step)
        pieces = [
            self._decode(padded[:, s : s + step], [count - s for count in counts], stream)
            for s in starts
        ]
        waveforms = torch.cat(pieces, dim=1)
        ends = [count * self.hop for count in counts]
        if lengths is not None:
            ends = [min(end, length) for end, length in zip(ends, lengths, strict=True)]
        return [waveform[:end] for waveform, end in zip(waveforms, ends, strict=True)]

    def decode_stream(self, tokens: Iterable[Tensor]) -> Iterator[Tensor]:
        """Turn the tokens of one long signal into its waveform, piece by piece.

        Args:
            tokens: (frames, codebooks) each, of any lengths, one after the other.

        Yields:
            (samples,) float32 on the CPU; together what `decode` gives for the whole.

        Raises:
            UserError: as `decode`.
        """
        from open_miipher.codec.streaming import Stream

        stream = Stream()
        for piece in _recut(tokens, self._frames_at_once(1)):
            report(list(self._problems(piece)))
            yield self._decode(piece[None].long(), [len(piece)], stream)[0]

    def _encode(self, piece: Tensor, lengths: list[int], stream: "Stream") -> Tensor:
        """Return the tokens (batch, frames, codebooks) of a piece of a batch."""
        x = piece.to(self.device).float()[:, None]
        with torch.no_grad(), in_float32(self.device):
            embeddings = stream.run(self._model.encoder.layers, x, lengths)
            codes = self._model.quantizer.encode(embeddings, self.bandwidth)
        return codes.permute(1, 2, 0).to(torch.int16).cpu()

    def _decode(self, piece: Tensor, lengths: list[int], stream: "Stream") -> Tensor:
        """Return the waveforms (batch, frames · hop) of a piece of a batch of tokens."""
        with torch.no_grad(), in_float32(self.device):
            embeddings = self._model.quantizer.decode(piece.to(self.device).permute(2, 0, 1))
            waveform = stream.run(self._model.decoder.layers, embeddings, lengths)
        return waveform[:, 0].cpu()

    def _frames_at_once(self, batch: int) -> int:
        """Return the frames of a piece: at least a second, which is longer than any kernel."""
        seconds = _SECONDS_AT_ONCE.get(self.device.type, _SECONDS_AT_ONCE["cpu"])
        return max(1, round(seconds / max(1, batch))) * -(-self.sample_rate // self.hop)

    def _problems(self, tokens: Tensor) -> Iterator[str]:
        if tokens.ndim != 2 or tokens.shape[1] != self.codebooks:
            yield (
                f"tokens of the shape {tuple(tokens.shape)} are not of this codec: at "
                f"{self.bandwidth:g} kb/s it has {self.codebooks} codebooks, so (frames, "
                f"{self.codebooks}) is needed; decode with the codec and bandwidth of the encoding"
            )
        elif len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.codebook_size:
            wrong = int(tokens.min()) if int(tokens.min()) < 0 else int(tokens.max())
            yield (
                f"the token {wrong} is out of range: this codec has 0 … {self.codebook_size - 1}; "
                "take out what marks beginnings and ends before decoding"
            )


def _load(source: str, bandwidth: float) -> Any:
    """Load an EnCodec in float32, frozen.

    Raises:
        UserError: see `AudioTokenizer`.
    """
    settings = read_json(source, "config.json", what="codec")
    problem = _unfit(settings)
    if problem is not None:
        raise UserError(f"codec source {source} {problem}; facebook/encodec_24khz is one that fits")
    weights = find_file(source, "model.safetensors", "pytorch_model.bin", what="codec")
    from safetensors import SafetensorError
    from transformers import EncodecModel
    from transformers.utils import logging

    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = EncodecModel.from_pretrained(
            weights.parent, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"codec source {source} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(before)
        if had_bars:
            logging.enable_progress_bar()
    wrong = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise UserError(f"codec source {source} lacks weights: {shown}")
    offered = model.config.target_bandwidths
    if bandwidth not in offered:
        known = ", ".join(f"{each:g}" for each in offered)
        raise UserError(
            f"codec.bandwidth={bandwidth:g} is not offered by {source}; choose one of {known} kb/s"
        )
    return model.requires_grad_(False).eval()


def _unfit(settings: dict[str, Any]) -> str | None:
    """Say why a model is no EnCodec of the kind that is needed; None if it is one."""
    kind = settings.get("model_type")
    if kind != "encodec":
        return f"is of type {kind}, and an encodec is needed"
    channels = settings.get("audio_channels", 1)
    if channels != 1:
        return f"has {channels} channels, and one channel is needed"
    if settings.get("normalize", False) or settings.get("chunk_length_s") is not None:
        return "normalises pieces of a signal each by its own level, and must take signals whole"
    if not settings.get("use_causal_conv", True) or settings.get("trim_right_ratio", 1.0) != 1.0:
        return "hears the future, and must hear the past only"
    if settings.get("norm_type", "weight_norm") != "weight_norm":
        return f"has the norm {settings['norm_type']} over time, and weight_norm is needed"
    if settings.get("pad_mode", "reflect") != "reflect":
        return f"pads by {settings['pad_mode']}, and reflect is needed"
    return None


def _fingerprint(model: torch.nn.Module, bandwidth: float) -> str:
    digest = hashlib.sha256(f"encodec {bandwidth:g}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _recut(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Cut what follows each other into pieces of one size; only the last may be shorter."""
    held: list[Tensor] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= size:
            joined = torch.cat(held)
            yield from joined[: count // size * size].split(size)
            held, count = [joined[count // size * size :]], count % size
    if count:
        yield torch.cat(held)
