"""Tokenise a corpus: `torchrun src/tokenize_audio.py --input-audio-dir I --output-dir O`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from open_miipher.base.shipped import shipped
from open_miipher.commands import Parser
from open_miipher.commands.options import (
    array_task,
    ask_for_array_task,
    ask_for_failures,
    ask_for_inputs,
    tar_shards,
)
from open_miipher.commands.runs import as_rank, say_how_it_ended
from open_miipher.corpus.outcome import MaxFailures

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.codec import AudioTokenizer, CodecConfig
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
    parser = Parser(description=DESCRIPTION, epilog=EXAMPLES)
    ask_for_inputs(parser, "tokenise", required=True)
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
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="of audio at once (default: 600 on a GPU, 40 on a CPU)",
    )
    add("--overwrite", action="store_true", help="tokenise everything again")
    ask_for_failures(parser, "shards that lack recordings which cannot be read")
    ask_for_array_task(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, load, tokenise, sum up."""
    arguments = parse_arguments(argv)
    return as_rank(
        lambda world: _tokenise(arguments, world), arguments.device, "a smaller --batch-seconds"
    )


def _tokenise(arguments: argparse.Namespace, world: "World") -> int:
    from open_miipher.corpus.run import run
    from open_miipher.corpus.tokenising import Tokenise
    from open_miipher.distributed import StopSignal

    own = world.agree(lambda: array_task(arguments))
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
    summary = run(task, output_dir, world, arguments.overwrite, own, stop, allowed)
    if world.is_main:
        say_how_it_ended(summary, summary.sentence("tokenised"), output_dir)
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
    from open_miipher.corpus.tars import Groups

    shards = tar_shards(arguments)
    if shards is not None:
        return shards
    recordings = (
        Manifest(arguments.input_manifest)
        if arguments.input_audio_dir is None
        else Indexed(arguments.input_audio_dir)
    )
    size = SHARD_SAMPLES if arguments.output_shards is None else arguments.output_shards
    return Groups(recordings, size, "tokens-")
