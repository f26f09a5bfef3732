"""Where `src/inference.py` takes its inputs from, and whether it writes files or shards."""

import argparse
from collections.abc import Callable
from pathlib import Path

from open_miipher.base.errors import UserError
from open_miipher.corpus.restoring import (
    Directory,
    FileFormat,
    Groups,
    Manifest,
    Recordings,
    RestoreFiles,
    RestoreShards,
    ShardInputs,
    TarShards,
)
from open_miipher.restoration import Restorer
from open_miipher.shards import S3Config, Storage

Task = RestoreFiles | RestoreShards
MakeTask = Callable[[Restorer], Task]


def ask_what_comes_in(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the inputs."""
    group = parser.add_argument_group("what comes in (one of the first three)")
    add = group.add_mutually_exclusive_group(required=True).add_argument
    add("--input-audio-dir", type=Path, metavar="DIR", help="all audio files under a directory")
    add(
        "--input-manifest",
        type=Path,
        metavar="FILE",
        help="JSON lines: audio_filepath (absolute, or relative to the manifest's folder), offset "
        "and duration in s for a segment, and whatever else is to be passed through",
    )
    add(
        "--input-shards",
        nargs="+",
        metavar="URL",
        help="tar shards: folders, patterns, braces (x/{000..099}.tar) or .txt lists of them, on "
        "disks or s3://; each becomes an output shard of the same name below their common folder",
    )
    add = group.add_argument
    add(
        "--shard-member",
        metavar="NAME",
        help="which member of a sample of --input-shards to restore: flac, noisy.wav, or an npy or "
        "pth array with its rate in sr.index (default: all audio files); the others are carried "
        "along as they are",
    )
    add("--s3-endpoint-url", metavar="URL", help="of an S3-compatible store (default: Amazon's)")
    add(
        "--s3-profile",
        metavar="NAME",
        help="section of ~/.aws/credentials (default: the environment's credentials)",
    )


def ask_for_shards(group: argparse._ArgumentGroup) -> None:
    """Add the argument that asks for shards as outputs."""
    group.add_argument(
        "--output-shards",
        type=int,
        metavar="N",
        help="write tar shards of N samples (restored-000000.tar …) and no file for each; always "
        "local: copy them to a store yourself. Nothing to do with --num-shards",
    )


def check_inputs(arguments: argparse.Namespace, file_format: FileFormat) -> MakeTask:
    """Check what is asked for, and return what makes the task once the model is loaded.

    Raises:
        UserError: arguments that do not go together, or see `Recordings.check`.
    """
    output_dir, size = arguments.output_dir, arguments.output_shards
    if arguments.input_shards is None:
        _refuse_arguments_of_shards(arguments)
        recordings: Recordings = (
            Manifest(arguments.input_manifest)
            if arguments.input_audio_dir is None
            else Directory(arguments.input_audio_dir)
        )
        recordings.check(output_dir)
        if size is None:
            return lambda restorer: RestoreFiles(restorer, recordings, output_dir, file_format)
        inputs: ShardInputs = Groups(recordings, size)
    else:
        if size is not None:
            raise UserError("--input-shards gives one shard for each; leave out --output-shards")
        storage = Storage(S3Config(arguments.s3_endpoint_url, arguments.s3_profile))
        inputs = TarShards(arguments.input_shards, storage, arguments.shard_member)
        inputs.check(output_dir)
    return lambda restorer: RestoreShards(restorer, inputs, output_dir, file_format)


def _refuse_arguments_of_shards(arguments: argparse.Namespace) -> None:
    for name in ("shard_member", "s3_endpoint_url", "s3_profile"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with --input-shards alone")
