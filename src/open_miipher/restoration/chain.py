"""The trained chain, encoder → cleaner → vocoder, as it comes out of a checkpoint."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.checkpoint import Checkpoint, load_strictly
from open_miipher.cleaners import CLEANERS, Cleaner
from open_miipher.encoders import ENCODERS
from open_miipher.vocoders import VOCODERS, Vocoder


class Model(Protocol):
    """What restoring needs of a model; `Chain` is one.

    Attributes:
        input_rate: Hz of the waveform that goes in.
        input_hop: its samples per feature frame.
        output_rate: Hz of the waveform that comes out.
        output_hop: its samples per feature frame.
        needs_noise: whether the noise given is used.
        needs_statistics: whether chunks can be normalised by the statistics of the whole signal,
            which then takes a first pass.
        restores_level: whether the output has the level of the speech in the input.
        fingerprint: identifies the weights and the precision they are used with.
    """

    input_rate: int
    input_hop: int
    output_rate: int
    output_hop: int
    needs_noise: bool
    needs_statistics: bool
    restores_level: bool
    fingerprint: str

    def measure(self, blocks: Iterable[np.ndarray]) -> Tensor:
        """Take the statistics of a signal; asked for only where `needs_statistics`.

        Args:
            blocks: all of the signal, each (channels, n) float32 at `input_rate`.

        Returns:
            (channels, numbers) on the CPU, for `restore`.
        """

    def restore(
        self, waveform: Tensor, lengths: Tensor, noise: Tensor, statistics: Tensor | None = None
    ) -> Tensor:
        """Restore a batch of chunks of equally many frames.

        Args:
            waveform: (batch, frames * input_hop) at `input_rate`, zero beyond `lengths`.
            lengths: (batch,) true samples; the last frame holds at least one.
            noise: (batch, frames * output_hop) standard normal.
            statistics: (batch, numbers) of the chunks' signals, from `measure`; None: each chunk's
                own.

        Returns:
            (batch, frames * output_hop) float32 on the CPU.
        """


class Chain:
    """A cleaner and a vocoder on one device (see `Model` for the attributes).

    Args:
        cleaner: with its encoder.
        vocoder: for the cleaner's features.
        device: where both go.
        amp: bf16 computes in mixed precision.
        specs: the plain data that the two were built from; a part of the fingerprint.
    """

    def __init__(
        self,
        cleaner: Cleaner,
        vocoder: Vocoder,
        device: torch.device | str = "cpu",
        amp: Literal["bf16", "no"] = "no",
        specs: Mapping[str, Any] | None = None,
    ) -> None:
        self.cleaner = cleaner.to(device).eval()
        self.vocoder = vocoder.to(device).eval()
        # With its number: what "cuda" means differs from thread to thread.
        self.device = next(self.vocoder.parameters()).device
        self.input_rate = cleaner.encoder.sample_rate
        self.input_hop = cleaner.encoder.hop_length
        self.output_rate = vocoder.sample_rate
        self.output_hop = vocoder.hop_length
        self.needs_noise = vocoder.needs_noise
        self.needs_statistics = cleaner.encoder.needs_statistics
        self.restores_level = vocoder.restores_level
        weights = _fingerprint(cleaner, vocoder, specs or {})
        self.fingerprint = weights if amp == "no" else f"{weights}-{amp}"
        self._bf16 = amp == "bf16"

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        amp: Literal["bf16", "no"] = "no",
        ema: bool = True,
        encoder_source: str | None = None,
    ) -> "Chain":
        """Build the chain that a stage-3 checkpoint holds.

        Args:
            path: a checkpoint folder or a run's output directory.
            device: where the models go.
            amp: bf16 computes in mixed precision.
            ema: take the moving average of the weights, where the checkpoint has one.
            encoder_source: where the base encoder lies, if not where it was in training.

        Raises:
            UserError: no whole checkpoint, no whole chain in it, or weights that do not fit.
        """
        checkpoint = Checkpoint.open(path)
        specs = _part_specs(checkpoint)
        moved = {} if encoder_source is None else {"source": encoder_source}
        encoder = build(ENCODERS, {**specs["encoder"], **moved}, key="model.encoder")
        checkpoint.check_encoder(encoder.fingerprint())
        cleaner = build(CLEANERS, specs["cleaner"], encoder, key="model.cleaner")
        vocoder = build(
            VOCODERS, specs["vocoder"], encoder.width, encoder.frame_rate, key="model.vocoder"
        )
        read = checkpoint.averaged_weights if ema else checkpoint.weights
        cleaner.load_trained_state_dict(read("cleaner"))
        cleaner.merge()
        load_strictly(vocoder, read("generator"), checkpoint.path)
        return cls(cleaner, vocoder, device, amp, specs)

    @torch.inference_mode()
    def measure(self, blocks: Iterable[np.ndarray]) -> Tensor:
        """Take the statistics of a signal (see `Model.measure`)."""
        # Copied: torch takes neither arrays that run backwards nor, silently, read-only ones.
        on_device = (torch.from_numpy(block.copy()).to(self.device) for block in blocks)
        return self.cleaner.encoder.measure(on_device).cpu()

    @torch.inference_mode()
    def restore(
        self, waveform: Tensor, lengths: Tensor, noise: Tensor, statistics: Tensor | None = None
    ) -> Tensor:
        """Restore a batch of chunks (see `Model.restore`)."""
        waveform, lengths = waveform.to(self.device), lengths.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            features, _ = self.cleaner(waveform, lengths, statistics)
            restored = self.vocoder.generate(features, noise.to(self.device))
        return restored.float().cpu()


def _part_specs(checkpoint: Checkpoint) -> Mapping[str, Any]:
    model = checkpoint.config.get("model", {})
    missing = [part for part in ("cleaner", "generator") if part not in checkpoint.names]
    if missing == ["generator"]:
        raise UserError(
            f"{checkpoint.path} holds a feature cleaner alone, which makes no audio; "
            "pass a checkpoint of stage 3 (model=…_finetune)"
        )
    if missing == ["cleaner"]:
        raise UserError(
            f"{checkpoint.path} holds a vocoder alone, which cleans nothing; "
            "pass a checkpoint of stage 3 (model=…_finetune)"
        )
    absent = missing + [part for part in ("encoder", "cleaner", "vocoder") if not model.get(part)]
    if absent:
        raise UserError(
            f"{checkpoint.path} is no restoration chain ({', '.join(absent)} missing); "
            "pass a checkpoint of stage 3 (model=…_finetune)"
        )
    return {part: model[part] for part in ("encoder", "cleaner", "vocoder")}


def _fingerprint(cleaner: Cleaner, vocoder: Vocoder, specs: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(cleaner.encoder.fingerprint().encode())
    digest.update(json.dumps(specs, sort_keys=True).encode())
    for state in (cleaner.trained_state_dict(), vocoder.state_dict()):
        for name, tensor in sorted(state.items()):
            digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
