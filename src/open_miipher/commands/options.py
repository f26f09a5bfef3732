"""Options that several commands have, and what is made of them."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_miipher.base.errors import UserError

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.corpus.array import ArrayTask
    from open_miipher.corpus.tars import TarShards

Group = argparse._ActionsContainer
"""A parser, or a group of its options."""


def ask_which_checkpoint(group: Group) -> None:
    """Add `--ckpt`, beside a `--ckpt-dir`."""
    group.add_argument(
        "--ckpt",
        default="newest",
        metavar="newest|best|STEP",
        help="which checkpoint, where --ckpt-dir is the output directory of a run (default: "
        "%(default)s)",
    )


def ask_for_ema(group: Group) -> None:
    """Add `--no-ema`."""
    group.add_argument(
        "--no-ema",
        action="store_true",
        help="take the trained weights themselves, not their moving average",
    )


def ask_for_failures(group: Group, unit: str) -> None:
    """Add `--max-failures`.

    Args:
        group: gets it.
        unit: what may fail, such as `texts`.
    """
    group.add_argument(
        "--max-failures",
        default="0",
        metavar="N|P%",
        help=f"so many {unit}, or such a share, may fail without an exit status of 3 (default: "
        "%(default)s)",
    )


def ask_for_array_task(group: Group) -> None:
    """Add `--num-shards` and `--shard-id`, which `array_task` reads."""
    group.add_argument(
        "--num-shards",
        type=int,
        metavar="N",
        help="tasks of a job array that share the work out (tar shards are something else), each "
        "started with its --shard-id",
    )
    group.add_argument(
        "--shard-id", type=int, metavar="K", help="which of them this one is: 0 … N - 1"
    )


def array_task(arguments: argparse.Namespace) -> "ArrayTask | None":
    """Return the task of a job array that this process belongs to.

    Raises:
        UserError: only one of the two options is given, or there is no such task.
    """
    from open_miipher.corpus.array import ArrayTask

    count, index = arguments.num_shards, arguments.shard_id
    if (count is None) != (index is None):
        raise UserError("--num-shards and --shard-id belong together; give both or none")
    return None if count is None else ArrayTask(count, index)


def ask_for_inputs(group: Group, done: str, required: bool) -> None:
    """Add the options for recordings and tar shards, of which `tar_shards` makes those.

    Args:
        group: gets them.
        done: what is done with a member of a sample, such as `restore`.
        required: whether the command has no other way to name its inputs.
    """
    add = group.add_mutually_exclusive_group(required=required).add_argument
    add(
        "--input-audio-dir",
        type=local_input,
        metavar="DIR",
        help="all audio files under a directory",
    )
    add(
        "--input-manifest",
        type=local_input,
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
        help=f"which member of a sample of --input-shards to {done}: flac, noisy.wav, or an npy or "
        "pth array with its rate in sr.index (default: all audio files); the others are carried "
        "along as they are",
    )
    add("--s3-endpoint-url", metavar="URL", help="of an S3-compatible store (default: Amazon's)")
    add(
        "--s3-profile",
        metavar="NAME",
        help="section of ~/.aws/credentials (default: the environment's credentials)",
    )


def tar_shards(arguments: argparse.Namespace) -> "TarShards | None":
    """Return the tar shards that the command line names; None if it names recordings.

    Raises:
        UserError: options do not go together.
    """
    from open_miipher.corpus.tars import TarShards
    from open_miipher.shards import S3Config, Storage

    if arguments.input_shards is not None:
        if arguments.output_shards is not None:
            raise UserError("--input-shards gives one shard for each; leave out --output-shards")
        storage = Storage(S3Config(arguments.s3_endpoint_url, arguments.s3_profile))
        return TarShards(arguments.input_shards, storage, arguments.shard_member)
    for name in ("shard_member", "s3_endpoint_url", "s3_profile"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with --input-shards alone")
    return None


def ask_for_overrides(parser: argparse.ArgumentParser) -> None:
    """Add Hydra's overrides, and `--cfg`, after which `print_config` is called."""
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, key=value")
    parser.add_argument(
        "--cfg", choices=["job"], help="print the composed configuration and do nothing else"
    )


def print_config(plain: Mapping[str, Any]) -> None:
    """Print a composed configuration as YAML."""
    import yaml

    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def positive(text: str) -> int:
    """Read a whole number of at least 1 (a type of argparse)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: choose 1 or more")
    return int(text)


def local(mend: str) -> Callable[[str], Path]:
    """Return the type of a path on this machine; a store is answered with the mend."""

    def parse(text: str) -> Path:
        if "://" in text:
            raise argparse.ArgumentTypeError(f"{text} is no path of this machine: {mend}")
        return Path(text)

    return parse


local_input = local("give tar shards of a store with --input-shards, or copy the files here")
