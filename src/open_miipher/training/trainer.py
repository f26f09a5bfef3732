"""The training loop: repeats a recipe's step on every rank, validates, logs and saves."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from open_miipher.base.amounts import duration
from open_miipher.base.compilers import set_up_compiler
from open_miipher.base.plain import shell_override
from open_miipher.base.shipped import as_called
from open_miipher.checkpoint import (
    Content,
    complete_checkpoints,
    prune,
    snapshot,
    write_checkpoint,
)
from open_miipher.data import Batch
from open_miipher.distributed import (
    StopSignal,
    World,
    is_under_torchrun,
    mark_requeue,
    stop_signals_wait,
)
from open_miipher.recipes import Pass, Sound
from open_miipher.training.config import TrainerConfig
from open_miipher.training.console import Console
from open_miipher.training.finite import FiniteCheck
from open_miipher.training.loggers import Logger
from open_miipher.training.metrics_log import MetricsLog
from open_miipher.training.optimization import (
    OptimizerConfig,
    learning_rate,
    set_learning_rate,
)
from open_miipher.training.state import TrainingState

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Repeats a recipe's step under DDP; saves, validates and logs at the configured steps.

    Args:
        config: the trainer's keys.
        optimizers: a configuration for each network that trains.
        state: everything that a checkpoint holds, including the recipe; already restored if the run
            is resumed.
        batches: this rank's micro batches, endless, from the state's position on.
        clips: called with a rank and the number of ranks; gives that rank's share of the fixed
            validation clips. None: there are no clips.
        sampled: likewise, the clips that sounds are made of.
        world: the ranks.
        stop: knows whether a signal was received.
        output_dir: the run's.
        loggers: receive curves and samples; empty except on rank 0.
        console: prints lines.
        lock: the lock of `output_dir`, held while the trainer exists.
    """

    def __init__(
        self,
        config: TrainerConfig,
        optimizers: Mapping[str, OptimizerConfig],
        state: TrainingState,
        batches: Iterator[Batch],
        clips: Callable[[int, int], Iterator[Batch]] | None,
        sampled: Callable[[int, int], Iterator[Batch]] | None,
        world: World,
        stop: StopSignal,
        output_dir: Path,
        loggers: list[Logger],
        console: Console,
        lock: TextIO | None,
    ) -> None:
        self.config, self.optimizers = config, optimizers
        self.state, self.recipe = state, state.recipe
        self.batches, self.clips, self.sampled = batches, clips, sampled
        self.world, self.stop = world, stop
        self.output_dir, self.loggers, self.console = output_dir, loggers, console
        self.lock = lock
        self.saved_step = state.step if state.step else None
        self.writer = ThreadPoolExecutor(1)  # of checkpoints
        self.writing: Future[None] | None = None
        self.scores: dict[str, float] = {}  # of the last validation
        self.was_zero = False  # the loss, and it was said
        self.failures: list[str] = []  # samples that could not be made, not reported yet
        self.check, self.values = FiniteCheck(world), dict[str, float]()
        self.asked: Callable[[], bool] = lambda: False  # whether to stop, as of the step before
        if config.compile:
            set_up_compiler()
            self.recipe.compile()
        self.networks = {n: self._wrap(network) for n, network in self.recipe.trained.items()}
        self.metrics = (
            MetricsLog(output_dir / "metrics.jsonl", state.step) if world.is_main else None
        )

    def run(self) -> bool:
        """Train until `max_steps` or a signal; in both cases, write a checkpoint at the end.

        A run that a signal ended early leaves a file that asks for its requeue. One that a second
        Ctrl-C ends at once says where it can go on from.

        Returns:
            Whether it came to its end.

        Raises:
            UserError: a loss or a gradient is not finite, or a checkpoint cannot be written.
            KeyboardInterrupt: at the second Ctrl-C.
        """
        try:
            return self._run()
        except KeyboardInterrupt:
            self.console.finish(self._lost_line())
            raise

    def _run(self) -> bool:
        state, config = self.state, self.config
        self.console.start(state.step, config.max_steps)
        begun, first_step = time.monotonic(), state.step
        started = begun - state.seconds
        stopping = False
        while state.step < config.max_steps and not stopping:
            # What is sent to all processes would end a compiler that the step starts.
            with stop_signals_wait() if config.compile else contextlib.nullcontext():
                self.step()
            losses = self.read() if self._is_time(config.log_every) else {}
            state.seconds = time.monotonic() - started
            if losses:
                rate = (state.step - first_step) / (time.monotonic() - begun)
                to_go = duration((config.max_steps - state.step) / rate)
                losses = self.world.mean(losses)
                self._log("train", losses, f"  {rate:.3g} steps/s, {to_go} to go")
            if self._is_time(config.validate_every):
                self.validate()
            if self._is_time(config.sample_every):
                self.sample()
            stopping = self._has_to_stop()
            if self._is_time(config.save_every):
                self.begin_save()
        self.asked()
        self._report_failures()
        self.save()
        unfinished = state.step < config.max_steps
        if self.world.is_main and unfinished:
            mark_requeue(self.output_dir, True)
        self._judge()
        self.console.finish(self._last_line(first_step))
        for logger in self.loggers:
            logger.close()
        return not unfinished

    def _judge(self) -> None:
        """Say if the last validation was no better than what the clips were before."""
        for name, score in self.scores.items():
            damaged = self.scores.get(f"{name}_damaged")
            if damaged is not None and score >= damaged:
                self.console.line(
                    f"warning: validation ended with a {name} of {score:.4g}, the damaged input's "
                    f"is {damaged:.4g}: speech gets no better; train longer, or at another rate"
                )

    def _last_line(self, first_step: int) -> str:
        step, max_steps = self.state.step, self.config.max_steps
        if first_step >= max_steps:
            return f"step {step}: nothing to do, trainer.max_steps={max_steps}; give more to go on"
        if step >= max_steps:
            return f"step {step}: done"
        return f"step {step}: stopped by a signal, and saved; to go on: {self._again()}"

    def _lost_line(self) -> str:
        saved = complete_checkpoints(self.output_dir / "ckpt")
        if not saved:
            return f"step {self.state.step}: ended at once, before anything was saved"
        return (
            f"step {self.state.step}: ended at once; the newest checkpoint is {saved[-1]}; "
            f"to go on: {self._again()}"
        )

    def _again(self) -> str:
        """Return the command that resumes this run, and what to expect after it."""
        launcher = "python"
        note = ""
        if is_under_torchrun():
            launcher = f"torchrun --standalone --nproc_per_node {self.world.size}"
            if self.stop.received in ("SIGINT", "SIGTERM"):  # which go to torchrun first
                note = " (what follows is torchrun's own report of the signal)"
        resume = shell_override("trainer.ckpt_dir", str(self.output_dir))
        return as_called(f"{launcher} src/train.py {resume}") + note

    def _has_to_stop(self) -> bool:
        """Whether a rank has received a signal, or cannot save; several know it one step later.

        They ask each other while the next step is computed, so that none waits for the answer.
        """
        received = self.stop.received is not None or self._has_failed_to_write()
        if self.world.size == 1:
            return received
        asked, self.asked = self.asked, self.world.any_later(received)
        return asked()

    def _has_failed_to_write(self) -> bool:
        writing = self.writing
        return writing is not None and writing.done() and writing.exception() is not None

    def step(self) -> None:
        """Take one optimiser step of every network, without waiting for the device.

        If a loss or a gradient is not finite on some rank, neither this step nor any after it
        changes a weight, a moment or an average; `read` finds that.
        """
        state, recipe = self.state, self.recipe
        seed = np.random.SeedSequence([self.config.seed, state.step, self.world.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))  # for dropout
        losses, names = self.accumulate()
        norms = {n: self._clip(n, network) for n, network in recipe.trained.items()}
        named = {f"grad_norm_{name}": norm for name, norm in norms.items()}
        # With fp16, a step whose gradients overflow is left out, and the scaler lowers its scale.
        if state.scaler.is_enabled():
            self.check.note(losses, named, names)
        else:
            self.check.note({**losses, **named}, {}, names)
        for name, norm in norms.items():
            overflows = norm.isfinite().logical_not().to(self.check.skip.dtype)
            self._update(name, torch.maximum(self.check.skip, overflows))
        state.scaler.update()
        state.advance(self.config.batch_size, self.check.skip)

    def read(self) -> dict[str, float]:
        """Wait for the device, and return this rank's losses and gradient norms of the last step.

        The losses are `loss` (the main network's total) and every named one. Called on every rank
        before anything leaves a step: a line, a validation, a checkpoint.

        Raises:
            UserError: a loss or a gradient was not finite on some rank, in the last step or before;
                the state is that before the bad step.
        """
        if not self.check.has_news:
            return self.values
        first_sample = self.check.last_samples[0]
        self.values, num_skipped = self.check.read()
        if num_skipped:
            self.state.take_back(num_skipped, self.config.batch_size)
            bad, self.check = self.check, FiniteCheck(self.world)
            raise bad.error(self.state.step, num_skipped)
        if self.values["loss"] == 0.0 and not self.was_zero:
            self.was_zero = True
            self.console.line(
                f"step {self.state.step}  warning: the loss is exactly 0, as it is where all "
                f"training data is digital silence; the first sample: {first_sample}"
            )
        return self.values

    def accumulate(self) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Run the passes of a step's micro batches and accumulate the gradients.

        Returns:
            This rank's losses, averaged over the micro batches, still on the device, and the names
            of its samples.
        """
        accumulation = self.config.grad_accumulation
        means: dict[str, torch.Tensor] = {}
        names: list[str] = []
        for micro_step in range(accumulation):
            batch = next(self.batches).to(self.world.device)
            names += batch.names
            self.failures += batch.failures + batch.broken
            unsynchronised = self._unsynchronised(micro_step < accumulation - 1)
            are_rounded = self.config.amp == "no" and not self.config.compile
            with unsynchronised, _convolutions(batch.has_one_shape, are_rounded):
                for item in self._passes(batch):
                    self.state.scaler.scale(item.loss / accumulation).backward()
                    for name, value in _named(item, self.recipe.main).items():
                        share = value.detach().float() / accumulation
                        means[name] = means[name] + share if name in means else share
        return means, names

    def _passes(self, batch: Batch) -> Iterator[Pass]:
        iterator = self.recipe.passes(batch, self.networks)
        while True:
            with self._autocast():  # the forward only: backward uses the types of the forward
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def _clip(self, name: str, network: nn.Module) -> torch.Tensor:
        self.state.scaler.unscale_(self.state.optimizers[name])
        limit = self.config.max_grad_norm or float("inf")
        return nn.utils.clip_grad_norm_(network.parameters(), limit)

    def _update(self, name: str, skip: torch.Tensor) -> None:
        """Take the step of an optimiser unless `skip` is 1, as the device alone knows."""
        optimizer = self.state.optimizers[name]
        set_learning_rate(optimizer, learning_rate(self.optimizers[name], self.state.step))
        optimizer.found_inf = skip  # as torch's own scaler does it
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def validate(self) -> None:
        """Score the fixed clips with the averaged weights, on all ranks; save a new best."""
        recipe = self.recipe
        if self.clips is None:
            return
        self.read()
        with self._evaluating():
            scores = {}
            for clip in self.clips(self.world.rank, self.world.size):
                self.failures += clip.failures + clip.broken
                scores[int(clip.positions[0])] = recipe.validate(clip.to(self.world.device))
        gathered = {n: s for share in self.world.gather(scores) for n, s in share.items()}
        ordered = [gathered[number] for number in sorted(gathered)]
        means = {name: sum(s[name] for s in ordered) / len(ordered) for name in ordered[0]}
        self.scores = means
        self._log("validation", means)
        overall = recipe.overall(means)
        if overall < self.state.best_score:
            self.state.best_score = overall
            self.begin_save(best=True)

    def sample(self) -> None:
        """Log sounds on rank 0: of the first clips, or unconditional ones if there are no clips."""
        self.read()
        if not self.world.is_main:
            return
        with self._evaluating():
            if self.sampled is None:
                self._log_sounds("generated", self.recipe.samples(None))
                return
            for clip in itertools.islice(self.sampled(0, 1), self.config.num_samples):
                name = f"clip-{int(clip.positions[0]):02d}"
                self._log_sounds(name, self.recipe.samples(clip.to(self.world.device)))

    def _log_sounds(self, name: str, sounds: Mapping[str, Sound]) -> None:
        for logger in self.loggers if sounds else []:
            logger.clip(self.state.step, name, sounds)

    def save(self, best: bool = False) -> None:
        """Write a checkpoint, and wait until it is on the disk; see `begin_save`."""
        self.begin_save(best)
        self.finish_save()

    def begin_save(self, best: bool = False) -> None:
        """Copy the state on rank 0, which writes it while training goes on.

        One checkpoint is written at a time: this waits for the one before. The first of a run is
        waited for, since a run that is killed before has nothing to go on from. A step that is
        saved already is not saved again, unless it is the best one.

        Raises:
            UserError: see `finish_save`.
        """
        self.read()
        if self.saved_step == self.state.step and not best:
            return
        self.finish_save()
        if self.world.is_main:
            content = snapshot(self.state.content())
            self.writing = self.writer.submit(self._write, content, best)
        is_first, self.saved_step = self.saved_step is None, self.state.step
        if is_first:
            self.finish_save()

    def finish_save(self) -> None:
        """Wait on every rank until what rank 0 writes is on the disk.

        Raises:
            UserError: it cannot be written.
        """
        writing, self.writing = self.writing, None
        self.world.agree(lambda: writing.result() if writing else None)

    def _write(self, content: Content, best: bool) -> None:
        """Write a checkpoint and remove old ones, in a thread of rank 0."""
        root = self.output_dir / "ckpt"
        write_checkpoint(root, content, best=best)
        for problem in prune(root, self.config.keep_last):
            self.console.line(f"warning: {problem}")
        self.console.line(f"saved step {content.state['step']}{' (best)' if best else ''}")

    def _report_failures(self) -> None:
        self.console.failures(self.state.step, self.world.gather(self.failures))
        self.failures = []

    def _log(self, split: str, values: Mapping[str, float], more: str = "") -> None:
        self._report_failures()
        values = {**values, **self._rates(), "seconds": self.state.seconds}
        if self.metrics is None:
            return
        self.metrics.write(self.state.step, split, values)
        for logger in self.loggers:
            logger.scalars(self.state.step, {f"{split}/{k}": v for k, v in values.items()})
        self.console.metrics(self.state.step, split, values, more)

    def _rates(self) -> dict[str, float]:
        step = max(0, self.state.step - 1)
        rates = {
            f"lr_{name}": learning_rate(self.optimizers[name], step) for name in self.recipe.trained
        }
        return {"lr": rates.pop(f"lr_{self.recipe.main}"), **rates}

    def _is_time(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _wrap(self, network: nn.Module) -> nn.Module:
        if self.world.size == 1:
            return network
        device = self.world.device
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    @contextlib.contextmanager
    def _unsynchronised(self, wanted: bool) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if wanted and self.world.size > 1:
                for network in self.networks.values():
                    stack.enter_context(network.no_sync())
            yield

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.config.amp == "no":
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=_AMP[self.config.amp])

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        networks = list(self.recipe.trained.values())
        for network in networks:
            network.eval()
        try:
            eager = torch.compiler.set_stance("force_eager")  # clips have ever new shapes
            with torch.no_grad(), self.state.averaged(), self._autocast(), eager:
                yield
        finally:
            for network in networks:
                network.train()


@contextlib.contextmanager
def _convolutions(tries_algorithms: bool, are_rounded: bool) -> Iterator[None]:
    """Choose how cuDNN convolves, forward and backward.

    Args:
        tries_algorithms: on each new shape; what restores has ever new shapes.
        are_rounded: float32 may be TF32. Beside autocast, what is float32 is so for its precision;
            compiled code knows of no exceptions.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = tries_algorithms, are_rounded and cudnn.allow_tf32
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


def _named(item: Pass, main: str) -> dict[str, torch.Tensor]:
    return {"loss": item.loss, **item.losses} if item.network == main else item.losses
