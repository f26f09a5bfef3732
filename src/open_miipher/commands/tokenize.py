"""Tokenise a corpus: `torchrun src/tokenize_audio.py --input-audio-dir I --output-dir O`."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from open_miipher.base.errors import UserError
from open_miipher.base.shipped import as_called, shipped
from open_miipher.commands import Help
from open_miipher.corpus.outcome import INTERRUPTED, MaxFailures

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.codec import AudioTokenizer, CodecConfig
    from open_miipher.corpus.array import ArrayTask
    from open_miipher.corpus.tars import Packed
    from open_miipher.distributed import World

CONFIG_DIR = shipped("config/codec")
SHARD_SAMPLES = 1000
BATCH_SECONDS = {"cpu": 40.0, "cuda": 600.0}

DESCRIPTION = """\
Turn speech into the tokens of an EnCodec, in tar shards: of a directory, a manifest or tar shards,
audio of any length, rate and number of channels (several are mixed to one).

Every sample of a shard is KEY.npy, uint16 (frames, codebooks), and KEY.json: file, seconds,
sample_rate, num_samples, codec (its fingerprint), bandwidth, and what else metadata.csv or the
manifest says of the file (text, speaker, ...). Row by row, that is the order in time: at 1.5 kb/s,
150 tokens a second. Shards of audio become shards of the same names, whose samples keep their keys
and their other members. open_miipher.shards.read_tokens reads them.

Started again, the command goes on with what is left, with another number of processes too. Inputs
that changed are tokenised again. What cannot be read is left out of its shard, and listed in
OUTPUT_DIR/manifest.jsonl as everything else; OUTPUT_DIR/.ledger is the record of it all.
"""

EXAMPLES = """\
exit status: 0 all is tokenised, but for --max-failures; 2 wrong use, or nothing more can be
written; 3 more failed (see src/status.py); 4 a signal ended the run early, and the same command
goes on. torchrun makes 1 of all but 0: src/status.py OUTPUT_DIR --exit-status has the number.

examples:
  python src/tokenize_audio.py --input-audio-dir speech --output-dir tokens --codec demo
  torchrun --standalone --nproc_per_node 8 src/tokenize_audio.py --input-audio-dir /data/speech \\
      --output-dir /data/tokens --bandwidth 6
  python src/tokenize_audio.py --input-shards 'speech/{000..099}.tar' --shard-member flac \\
      --output-dir tokens --codec-source /models/encodec_24khz
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--input-audio-dir", type=Path, metavar="DIR", help="all audio files under a directory")
    add(
        "--input-manifest",
        type=Path,
        metavar="FILE",
        help="JSON lines: audio_filepath, offset and duration in s for a segment, and more",
    )
    add(
        "--input-shards",
        nargs="+",
        metavar="URL",
        help="tar shards: folders, patterns, braces or .txt lists of them, on disks or s3://",
    )
    add = parser.add_argument
    add("--output-dir", type=Path, required=True, metavar="DIR", help="gets the shards")
    add(
        "--codec",
        choices=sorted(path.stem for path in CONFIG_DIR.glob("*.yaml")),
        default="encodec_24khz",
        help="demo is the small one that comes with the project (default: %(default)s)",
    )
    add("--codec-source", metavar="ID|DIR", help="another EnCodec: a hub id or a folder")
    add("--bandwidth", type=float, metavar="KB/S", help="one that it offers (default: 1.5)")
    add(
        "--output-shards",
        type=int,
        metavar="N",
        help=f"recordings a shard (default: {SHARD_SAMPLES})",
    )
    add(
        "--shard-member",
        metavar="NAME",
        help="which member of a sample of --input-shards to tokenise (default: all audio files)",
    )
    add("--s3-endpoint-url", metavar="URL", help="of an S3-compatible store (default: Amazon's)")
    add("--s3-profile", metavar="NAME", help="section of ~/.aws/credentials")
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="of audio at once (default: 600 on a GPU, 40 on a CPU)",
    )
    add("--overwrite", action="store_true", help="tokenise everything again")
    add(
        "--max-failures",
        default="0",
        metavar="N|P%",
        help="so many shards, or such a share, may lack recordings that cannot be read, without an "
        "exit status of 3 (default: %(default)s)",
    )
    add("--num-shards", type=int, metavar="N", help="tasks of a job array that share the work out")
    add("--shard-id", type=int, metavar="K", help="which of them this one is: 0 … N - 1")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, load, tokenise, sum up."""
    arguments = parse_arguments(argv)
    from open_miipher.distributed import contact, start

    with contact("a smaller --batch-seconds", again="start the same command again"):
        world = start(
            arguments.device,
            timeout_minutes=7 * 24 * 60,  # ranks end hours apart
            collectives=False,
            cpu_option="--device cpu",
        )
        try:
            code = _tokenise(arguments, world)
        except KeyboardInterrupt:  # the second one
            return INTERRUPTED
        world.close()
    return code


def _tokenise(arguments: argparse.Namespace, world: "World") -> int:
    from open_miipher.corpus.run import run
    from open_miipher.corpus.tokenising import Tokenise
    from open_miipher.distributed import StopSignal

    array_task = world.agree(lambda: _array_task(arguments))
    allowed = world.agree(lambda: MaxFailures(arguments.max_failures))
    stop = StopSignal()
    inputs = world.agree(lambda: _inputs(arguments))
    world.on_main(lambda: inputs.check(arguments.output_dir))
    tokenizer = world.agree(lambda: _codec(arguments, world))
    asked = arguments.batch_seconds
    seconds = BATCH_SECONDS[world.device.type] if asked is None else asked
    task = world.agree(lambda: Tokenise(tokenizer, inputs, arguments.output_dir, seconds))
    if world.is_main:
        print(
            f"codec {tokenizer.fingerprint}: {tokenizer.frame_rate:g} frames a second of "
            f"{tokenizer.codebooks} tokens, on {world.device.type}",
            flush=True,
        )
    output_dir = arguments.output_dir
    summary = run(task, output_dir, world, arguments.overwrite, array_task, stop, allowed)
    if world.is_main:
        print(summary.sentence("tokenised"))
        if summary.stopped:
            print(f"ended early by {summary.stopped}; the same command goes on with what is left")
        if summary.num_failed:
            status = as_called(f"python src/status.py {shlex.quote(str(output_dir))}")
            print(f"the reasons: {status}")
            print(f"to try them again: {status} --retry-failed, and then this command")
    return summary.exit_code


def _codec(arguments: argparse.Namespace, world: "World") -> "AudioTokenizer":
    from open_miipher.codec import AudioTokenizer

    return AudioTokenizer.from_config(codec_config(arguments), world.device)


def codec_config(arguments: argparse.Namespace) -> "CodecConfig":
    """Return the codec that the command line asks for.

    Raises:
        UserError: config/codec holds no such codec, or a wrong one.
    """
    from open_miipher.base.registry import from_mapping
    from open_miipher.codec import CodecConfig

    fields: dict[str, Any] = yaml.safe_load((CONFIG_DIR / f"{arguments.codec}.yaml").read_text())
    given = {"source": arguments.codec_source, "bandwidth": arguments.bandwidth}
    fields |= {name: value for name, value in given.items() if value is not None}
    return from_mapping(CodecConfig, fields, "codec")


def _inputs(arguments: argparse.Namespace) -> "Packed":
    from open_miipher.corpus.recordings import Indexed, Manifest
    from open_miipher.corpus.tars import Groups, TarShards
    from open_miipher.shards import S3Config, Storage

    if arguments.input_shards is not None:
        if arguments.output_shards is not None:
            raise UserError("--input-shards gives one shard for each; leave out --output-shards")
        storage = Storage(S3Config(arguments.s3_endpoint_url, arguments.s3_profile))
        return TarShards(arguments.input_shards, storage, arguments.shard_member)
    for name in ("shard_member", "s3_endpoint_url", "s3_profile"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with --input-shards alone")
    recordings = (
        Manifest(arguments.input_manifest)
        if arguments.input_audio_dir is None
        else Indexed(arguments.input_audio_dir)
    )
    size = SHARD_SAMPLES if arguments.output_shards is None else arguments.output_shards
    return Groups(recordings, size, "tokens-")


def _array_task(arguments: argparse.Namespace) -> "ArrayTask | None":
    from open_miipher.corpus.array import ArrayTask

    count, index = arguments.num_shards, arguments.shard_id
    if (count is None) != (index is None):
        raise UserError("--num-shards and --shard-id belong together; give both or none")
    return None if count is None else ArrayTask(count, index)
