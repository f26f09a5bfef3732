"""The trained chain, encoder → cleaner → vocoder, built from a checkpoint."""

import hashlib
import itertools
import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.memory import keep_freed_memory
from open_miipher.base.paths import printable
from open_miipher.base.precision import store_in_bf16, without_parametrisations
from open_miipher.base.registry import build, from_mapping
from open_miipher.base.shipped import shipped
from open_miipher.checkpoint import Checkpoint
from open_miipher.cleaners import Cleaner
from open_miipher.cleaners.untouched import Untouched
from open_miipher.diffusion import Backbone
from open_miipher.encoders import ENCODERS, LogMelEncoder, StftEncoder
from open_miipher.restoration.graphs import Graphs, bucket
from open_miipher.vocoders import Vocoder
from open_miipher.vocoders.diffwave import DiffWave, DiffWaveConfig

DEFAULT_MODEL = shipped("pretrained/default")
"""The model that comes with the project; manifests name it `default-FINGERPRINT`."""


class Model(Protocol):
    """The interface of a model for restoration; `Chain` implements it.

    Attributes:
        input_rate: sample rate of the input, in Hz.
        input_hop: input samples per feature frame.
        output_rate: sample rate of the output, in Hz.
        output_hop: output samples per feature frame.
        needs_statistics: whether chunks can be normalised by the statistics of the whole signal;
            measuring these takes a first pass.
        restores_level: whether the output has the level of the speech in the input.
        is_light: whether it computes so little that measuring trust costs a share of it that can be
            told (docs/trust.md), rather than next to nothing; then trust is measured unasked.
        side_by_side: whether several batches at once, each with a share of torch's threads, are
            restored faster than one with all of them: on a CPU they are.
        fingerprint: identifies the weights and the precision of the computation.
    """

    input_rate: int
    input_hop: int
    output_rate: int
    output_hop: int
    needs_statistics: bool
    restores_level: bool
    is_light: bool
    side_by_side: bool
    fingerprint: str

    def measure(self, blocks: Iterable[np.ndarray]) -> Tensor:
        """Measure the statistics of a signal; called only if `needs_statistics`.

        Args:
            blocks: the whole signal, each block (channels, n) float32 at `input_rate`.

        Returns:
            (channels, numbers) on the CPU, for `restore`.
        """

    def restore(
        self,
        waveform: Tensor,
        lengths: Tensor,
        keys: Tensor,
        starts: Tensor,
        statistics: Tensor | None = None,
    ) -> Tensor:
        """Restore a batch of chunks; each result is what it would be alone.

        Several threads may call it at once: one batch is made ready while another is restored.

        Args:
            waveform: (batch, frames * input_hop) at `input_rate`, zero beyond `lengths`; speech at
                about `audio.level.SPEECH_RMS`.
            lengths: (batch,) samples before the padding; at least one of them in the last frame of
                the longest chunk.
            keys: (batch,) int64, the noise stream of each chunk's signal (`base.noise`); ignored by
                a model that does not start from noise.
            starts: (batch,) int64, start of each chunk's output in its signal, in samples: the
                noise is read from there, so that neighbouring chunks share their noise.
            statistics: (batch, numbers) of the chunks' signals, from `measure`; None: each chunk is
                normalised by its own.

        Returns:
            (batch, frames * output_hop) float32 on the CPU; anything beyond a chunk's last frame.
        """


class Chain:
    """A cleaner and a vocoder on one device (see `Model` for the attributes).

    Printed, it says which model it is, of which checkpoint, and where it is.

    Args:
        cleaner: with its encoder. Both networks are the chain's from then on, and changed.
        vocoder: for the cleaner's features.
        device: that both are moved to.
        amp: bf16 stores the weights in bfloat16 and computes in it where that is not heard.
        specs: the plain data that the two were built from; part of the fingerprint.

    Attributes:
        checkpoint: that it was built from; None: from none.
        averaged: whether that was from moving averages of the weights, where it has any.
    """

    checkpoint: Checkpoint | None = None
    averaged: bool = True

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
        # Includes the GPU's number: "cuda" alone can mean another GPU in another thread.
        parameters = itertools.chain(self.cleaner.parameters(), self.vocoder.parameters())
        self.device = next(parameters).device
        self.input_rate = cleaner.encoder.sample_rate
        self.input_hop = cleaner.encoder.hop_length
        self.output_rate = vocoder.sample_rate
        self.output_hop = vocoder.hop_length
        self.needs_statistics = cleaner.encoder.needs_statistics
        self.restores_level = vocoder.restores_level
        self.is_light = isinstance(cleaner.encoder, (LogMelEncoder, StftEncoder))
        weights = _fingerprint(cleaner, vocoder, specs or {})
        self.amp = amp
        self.fingerprint = weights if amp == "no" else f"{weights}-{amp}"
        self.origin = "no checkpoint"
        without_parametrisations(self.cleaner)
        without_parametrisations(self.vocoder)
        self.side_by_side = self.device.type == "cpu"
        self._turn: AbstractContextManager[object] = nullcontext()
        self._graphs: Graphs | None = None
        self.vocoder.merge(self.device.type == "cuda")
        if self.device.type == "cuda":
            self._turn = threading.Lock()  # graphs have one place for the inputs of all batches
            self._graphs = Graphs(self._compute, self.device)
        else:
            keep_freed_memory()
        if amp == "bf16":
            store_in_bf16(self.cleaner)
            store_in_bf16(self.vocoder)

    def __str__(self) -> str:
        return f"{self.fingerprint}, of {self.origin}, on {self.device}"

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | Checkpoint = DEFAULT_MODEL,
        device: torch.device | str = "cpu",
        amp: Literal["bf16", "no"] = "no",
        ema: bool = True,
        encoder_source: str | None = None,
    ) -> "Chain":
        """Build the chain from a checkpoint of stage 3, or of a recipe of one stage.

        Args:
            path: a checkpoint folder, a run's output directory, or an open checkpoint.
            device: that the models are moved to.
            amp: see `Chain`.
            ema: load the moving average of the weights if the checkpoint has one.
            encoder_source: path or name of the base encoder, if it has moved since training.

        Raises:
            UserError: the checkpoint or the chain in it is incomplete, or weights do not fit.
        """
        checkpoint = path if isinstance(path, Checkpoint) else Checkpoint.open(path)
        if "backbone" in checkpoint.networks:
            if encoder_source is not None:
                raise UserError(
                    f"{checkpoint.path} hears log-mels and has no base encoder: leave out the "
                    f"encoder's source, {encoder_source}"
                )
            return cls._with_diffusion(checkpoint, device, amp, ema)
        _check_chain(checkpoint)
        changes = {} if encoder_source is None else {"encoder": {"source": encoder_source}}
        cleaner = cast(Cleaner, checkpoint.build("cleaner", ema, changes))
        cleaner.merge()
        vocoder = cast(Vocoder, checkpoint.build("generator", ema))
        specs = {name: checkpoint.networks[name].spec for name in ("cleaner", "generator")}
        chain = cls(cleaner, vocoder, device, amp, specs)
        if checkpoint.path.resolve() == DEFAULT_MODEL:
            chain.fingerprint = f"default-{chain.fingerprint}"
        chain._tell_origin(checkpoint, ema, any(map(checkpoint.has_ema, specs)))
        return chain

    @classmethod
    def _with_diffusion(
        cls,
        checkpoint: Checkpoint,
        device: torch.device | str,
        amp: Literal["bf16", "no"],
        ema: bool,
    ) -> "Chain":
        """Build a chain that ends in a diffusion; without a cleaner, it copies speech.

        Raises:
            UserError: the diffusion hears no mel, or the checkpoint is damaged.
        """
        model = checkpoint.config["model"]
        if model["unconditional"]:
            raise UserError(
                f"{checkpoint.path} makes speech from nothing and cannot restore any: generate "
                "with src/generate.py, or pass a checkpoint of stage 3 (model=…_finetune)"
            )
        if "cleaner" in checkpoint.networks:
            cleaner = cast(Cleaner, checkpoint.build("cleaner", ema))
            cleaner.merge()
        else:
            log_mel = {"name": "log_mel", **model["mel"]}
            cleaner = Untouched(build(ENCODERS, log_mel, key="model.mel"))
        encoder = cleaner.encoder
        backbone = checkpoint.networks["backbone"].spec
        spec = {"backbone": backbone, "mel": model["mel"], "diffusion": model["diffusion"]}
        config = from_mapping(DiffWaveConfig, spec, "model")
        vocoder = DiffWave(encoder.width, encoder.frame_rate, config)
        vocoder.backbone = cast(Backbone, checkpoint.build("backbone", ema))
        chain = cls(cleaner, vocoder, device, amp, spec)
        chain._tell_origin(checkpoint, ema, checkpoint.has_ema("backbone"))
        return chain

    def _tell_origin(self, checkpoint: Checkpoint, averaged: bool, has_averages: bool) -> None:
        self.checkpoint, self.averaged = checkpoint, averaged
        which = " (moving average of the weights)" if averaged and has_averages else ""
        self.origin = f"{printable(checkpoint.path)}, step {checkpoint.state['step']}{which}"

    @torch.inference_mode()
    def measure(self, blocks: Iterable[np.ndarray]) -> Tensor:
        """Measure the statistics of a signal (see `Model.measure`)."""
        # Copied: torch rejects arrays with negative strides and warns of read-only ones.
        on_device = (torch.from_numpy(block.copy()).to(self.device) for block in blocks)
        return self.cleaner.encoder.measure(on_device).cpu()

    @torch.inference_mode()
    def restore(
        self,
        waveform: Tensor,
        lengths: Tensor,
        keys: Tensor,
        starts: Tensor,
        statistics: Tensor | None = None,
    ) -> Tensor:
        """Restore a batch of chunks (see `Model.restore`)."""
        num_frames = waveform.shape[1] // self.input_hop
        shortest = int(lengths.min())
        is_full = shortest == waveform.shape[1]
        has_ends = shortest <= (num_frames - 1) * self.input_hop
        if self._graphs is not None and not is_full:
            missing = bucket(num_frames) - num_frames
            if missing:  # else it stays in pinned memory
                waveform = nn.functional.pad(waveform, (0, missing * self.input_hop))
            has_ends = True  # as the graph of all batches of this length has it
        inputs = (waveform, None if is_full else lengths, keys, starts, statistics)
        with self._turn:
            if self._graphs is not None:
                restored = self._graphs(inputs, has_ends)
            else:
                there = (None if x is None else x.to(self.device) for x in inputs)
                restored = self._compute(has_ends, *there)
            restored = restored[:, : num_frames * self.output_hop]
            if self.device.type == "cpu":
                return restored
            # Into pinned memory a GPU writes several times as fast.
            return torch.empty(restored.shape, pin_memory=True).copy_(restored)

    def _compute(
        self,
        has_ends: bool,
        waveform: Tensor,
        lengths: Tensor | None,
        keys: Tensor,
        starts: Tensor,
        statistics: Tensor | None,
    ) -> Tensor:
        """Restore on the device, from tensors there; see `Model.restore`.

        Args:
            has_ends: whether a chunk ends before the batch's last frame.
            lengths: None: all are as long as the batch.
        """
        num_samples = waveform.shape[1] // self.input_hop * self.output_hop
        noise = self.vocoder.noise(keys, starts, num_samples)
        features, frame_lengths = self.cleaner(waveform, lengths, statistics)
        return self.vocoder.generate(features, noise, frame_lengths if has_ends else None).float()


def _check_chain(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint holds a complete chain.

    Raises:
        UserError: it does not; the message says what it holds.
    """
    missing = [part for part in ("cleaner", "generator") if part not in checkpoint.networks]
    if not missing:
        return
    what = f"is not a restoration chain ({', '.join(missing)} missing)"
    if missing == ["generator"]:
        what = "holds a feature cleaner alone, which makes no audio"
    elif missing == ["cleaner"]:
        what = "holds a vocoder alone, which cleans nothing"
    raise UserError(f"{checkpoint.path} {what}; pass a checkpoint of stage 3 (model=…_finetune)")


def _fingerprint(cleaner: Cleaner, vocoder: Vocoder, specs: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(cleaner.encoder.fingerprint().encode())
    digest.update(json.dumps(specs, sort_keys=True).encode())
    for state in (cleaner.trained_state_dict(), vocoder.state_dict()):
        for name, tensor in sorted(state.items()):
            digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
