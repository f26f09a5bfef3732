"""Restore recordings: `src/inference.py [--ckpt-dir D] IN OUT`."""

import argparse
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.audio.formats import FileFormat
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.commands.one_recording import UNCLIPPED, restore_one
from open_miipher.commands.options import array_task, tar_shards
from open_miipher.commands.restore_options import parse_arguments
from open_miipher.commands.runs import as_rank, say_how_it_ended, verified
from open_miipher.corpus.outcome import MaxFailures, Summary

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.corpus.feeding import Workers
    from open_miipher.corpus.inputs import Inputs
    from open_miipher.corpus.restoring import Restore
    from open_miipher.distributed import World
    from open_miipher.restoration import RestoreOptions, Restorer


def main(argv: Sequence[str] | None = None) -> int:
    """Check, load, restore, sum up."""
    arguments = parse_arguments(argv)
    return as_rank(
        lambda world: _restore(arguments, world),
        arguments.device,
        "a smaller --batch-size, shorter --chunk-seconds, or fewer --ranks-per-gpu",
        arguments.ranks_per_gpu,
    )


def _restore(arguments: argparse.Namespace, world: "World") -> int:
    from open_miipher.distributed import StopSignal

    if arguments.recording is not None:
        if world.size > 1:
            raise UserError(
                "one recording is restored by one process: start it without torchrun", shared=True
            )
        options = _options(arguments)
        restore_one(arguments, lambda: _load(options, arguments, world))
        return 0
    own = world.agree(lambda: array_task(arguments))
    allowed = world.agree(lambda: MaxFailures(arguments.max_failures))
    stop = None if arguments.dry_run else StopSignal()  # a model may take minutes to load
    with _workers(arguments, world) as workers:
        task = _task(arguments, world, workers)
        if stop is None:
            text, status = world.on_main(lambda: task.preview(arguments.overwrite, own, allowed))
            if world.is_main:
                print(text)
            return status
        from open_miipher.corpus.run import run

        summary = run(task, arguments.output_dir, world, arguments.overwrite, own, stop, allowed)
    if world.is_main:
        notes = _notes(summary, arguments.min_trust)
        say_how_it_ended(summary, summary.sentence("restored"), arguments.output_dir, notes)
    return summary.exit_code


def _workers(arguments: argparse.Namespace, world: "World") -> "Workers":
    from open_miipher.corpus.feeding import Workers

    wanted = arguments.num_workers
    if wanted is not None:
        return world.agree(lambda: Workers(wanted))
    host = socket.gethostname()
    return Workers.suited(world.device, world.gather(host).count(host))


def _task(arguments: argparse.Namespace, world: "World", workers: "Workers") -> "Restore":
    """Check what is asked for, then load the model, whose files are hashed once a machine."""
    from open_miipher.corpus.restoring import Restore

    options, file_format, inputs = world.agree(lambda: _asked_for(arguments))
    restorer = _load(options, arguments, world)
    elsewhere = arguments.outputs_elsewhere
    return Restore(restorer, inputs, arguments.output_dir, file_format, elsewhere, workers)


def _load(options: "RestoreOptions", arguments: argparse.Namespace, world: "World") -> "Restorer":
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.restoration import DEFAULT_MODEL, Restorer

    checkpoint = world.agree(
        lambda: Checkpoint.open(arguments.ckpt_dir or DEFAULT_MODEL, arguments.ckpt)
    )
    checkpoint = verified(checkpoint, world)
    if arguments.ranks_per_gpu > 1 and world.device.type == "cuda":
        import torch

        # One rank's trial of batch sizes must not take the memory of the others.
        torch.cuda.set_per_process_memory_fraction(1 / arguments.ranks_per_gpu, world.device)
    restorer = world.agree(
        lambda: Restorer.from_checkpoint(
            checkpoint,
            options,
            1 if arguments.dry_run else arguments.batch_size,  # without a trial
            world.device,
            arguments.amp,
            ema=not arguments.no_ema,
            encoder_source=arguments.encoder_source,
        )
    )
    if world.is_main:
        given = Path(arguments.ckpt_dir or DEFAULT_MODEL).resolve()
        newest = "" if given == checkpoint.path else f" (the newest in {printable(given)})"
        print(f"{restorer}{newest}", flush=True)
    return restorer


def _asked_for(arguments: argparse.Namespace) -> tuple["RestoreOptions", FileFormat, "Inputs"]:
    file_format = FileFormat(arguments.format, arguments.subtype)
    inputs = _inputs(arguments)
    inputs.check(arguments.output_dir)
    return _options(arguments), file_format, inputs


def _options(arguments: argparse.Namespace) -> "RestoreOptions":
    from open_miipher.restoration import RestoreOptions

    return RestoreOptions(
        sample_rate=arguments.sample_rate,
        channels=arguments.channels,
        level=arguments.level,
        strength=arguments.strength,
        chunk_seconds=arguments.chunk_seconds,
        overlap_seconds=arguments.overlap_seconds,
        normalise_over=arguments.normalise_over,
        seed=arguments.seed,
        trust=arguments.trust,
        trust_speaker=arguments.trust_speaker,
        min_trust=arguments.min_trust,
    )


def _inputs(arguments: argparse.Namespace) -> "Inputs":
    from open_miipher.corpus.recordings import Directory, Manifest
    from open_miipher.corpus.tars import Groups

    shards = tar_shards(arguments)
    if shards is not None:
        return shards
    recordings = (
        Manifest(arguments.input_manifest)
        if arguments.input_audio_dir is None
        else Directory(arguments.input_audio_dir)
    )
    size = arguments.output_shards
    return recordings if size is None else Groups(recordings, size)


def _notes(summary: Summary, min_trust: float) -> Iterator[str]:
    from open_miipher.corpus.ledger import MANIFEST_NAME

    if summary.num_carried:
        yield f"{summary.num_carried:,} members that are no audio were carried along"
    if summary.num_clipped:
        yield (
            f"{summary.num_clipped:,} {summary.unit} have samples that were clipped at full scale "
            f"(clipped_samples in {MANIFEST_NAME}); {UNCLIPPED}"
        )
    if summary.num_kept:
        yield (
            f"{summary.num_kept:,} recordings were kept as they were, trusted less than "
            f"--min-trust {min_trust:g} (kept_input in {MANIFEST_NAME})"
        )
