"""Restore a corpus: `src/inference.py --ckpt-dir D --input-audio-dir I --output-dir O`."""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from inference_inputs import Task, ask_for_shards, ask_what_comes_in, check_inputs
from open_miipher.base.errors import UserError
from open_miipher.corpus import Shard, on_main, run
from open_miipher.corpus.restoring import FORMATS, SAMPLE_BYTES, FileFormat
from open_miipher.distributed import StopSignal, World, contact, run_as_rank, start
from open_miipher.restoration import RestoreOptions, Restorer
from open_miipher.restoration.job import LEVELS, NORMALISE_OVER

DESCRIPTION = """\
Restore every recording under a directory, in a manifest, or in tar shards, with a trained chain (a
stage-3 checkpoint).

wav, flac, mp3, ogg, opus and aiff files of any rate, length and number of channels are read;
nothing is written beside them. The outputs have the same folders and names; two inputs that would
get one name (a/x.wav, a/x.flac) get two (a/x.wav, a/x.flac.wav). Every output is as long as its
input: frames = round(input frames * output rate / input rate), at least 1.

From shards to shards, every sample keeps its key and its other members (text, speaker, …) byte for
byte; a sample that cannot be restored is left out, and told. --output-shards does the same for a
directory or a manifest. Segments of a manifest have their span in the name (x@2.5+1.wav).

Started again, the command goes on with what is left, with another number of processes or array
tasks too. Inputs that changed since are restored again; those that failed and did not change are
not tried again (src/status.py --retry-failed). OUTPUT_DIR/manifest.jsonl lists every input: output,
durations, rates, levels, clipped samples, model, error. OUTPUT_DIR/.ledger is the record that all
this rests on: keep it.
"""

EXAMPLES = """\
exit status: 0 all is restored; 1 some files failed (see src/status.py), or a signal ended the run
early; 2 wrong use, or nothing more can be written.

examples:
  python src/inference.py --ckpt-dir output/demo/stage3 --input-audio-dir noisy --output-dir clean
  torchrun --standalone --nproc_per_node 8 src/inference.py --ckpt-dir CKPT \\
      --input-audio-dir /data/noisy --output-dir /data/restored --format flac --amp bf16
  python src/inference.py --ckpt-dir CKPT --input-audio-dir /data/noisy \\
      --output-dir /data/restored --num-shards 64 --shard-id $SLURM_ARRAY_TASK_ID
  python src/inference.py --ckpt-dir CKPT --input-shards 's3://bucket/noisy/{0000..0999}.tar' \\
      --s3-endpoint-url https://store.example --output-dir /data/restored --format flac
  python src/inference.py --ckpt-dir CKPT --input-manifest segments.jsonl --output-shards 1000 \\
      --output-dir /data/restored
"""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    defaults = RestoreOptions()
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--ckpt-dir",
        required=True,
        metavar="DIR",
        help="a stage-3 checkpoint folder, or the output directory of its run (its newest one)",
    )
    add("--output-dir", required=True, type=Path, metavar="DIR", help="where the outputs go")
    ask_what_comes_in(parser)
    _ask_what_comes_out(parser.add_argument_group("what comes out"), defaults)
    _ask_how(parser.add_argument_group("how it is computed"), defaults)
    _ask_what_is_done(parser.add_argument_group("what is done"))
    return parser.parse_args()


def _ask_what_comes_out(group: argparse._ArgumentGroup, defaults: RestoreOptions) -> None:
    add = group.add_argument
    add(
        "--sample-rate",
        type=_sample_rate,
        default=defaults.sample_rate,
        metavar="model|input|HZ",
        help="of the outputs: the model's (default), each input's own, or a number",
    )
    add(
        "--channels",
        choices=["mono", "each"],
        default=defaults.channels,
        help="mix to one channel, or restore each by itself (default: %(default)s)",
    )
    add(
        "--format",
        choices=FORMATS,
        default="wav",
        help="of the outputs (default: %(default)s); wav files above 4 GiB become RF64",
    )
    add(
        "--subtype",
        choices=list(SAMPLE_BYTES),
        default="PCM_16",
        metavar="NAME",
        help=f"kind of samples, one of {', '.join(SAMPLE_BYTES)} (default: %(default)s); flac "
        "knows PCM_S8, PCM_16 and PCM_24",
    )
    add(
        "--level",
        choices=LEVELS,
        default=defaults.level,
        help="match-input: speech as loud as in the input; peak: every file at a peak of 0.9; "
        "none: as the model gives it (default: %(default)s)",
    )
    add(
        "--strength",
        type=float,
        default=defaults.strength,
        metavar="0…1",
        help="share of the restored signal, the rest is the input (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=defaults.seed,
        metavar="N",
        help="of the noise that the vocoder starts from (default: %(default)s)",
    )
    ask_for_shards(group)


def _ask_how(group: argparse._ArgumentGroup, defaults: RestoreOptions) -> None:
    add = group.add_argument
    add(
        "--chunk-seconds",
        type=float,
        default=defaults.chunk_seconds,
        metavar="S",
        help="how much of a file the model sees at once, at most 30 for Gemma 3n (default: "
        "%(default)s)",
    )
    add(
        "--overlap-seconds",
        type=float,
        default=defaults.overlap_seconds,
        metavar="S",
        help="shared by neighbouring chunks, at most half a chunk (default: %(default)s)",
    )
    add(
        "--normalise-over",
        choices=NORMALISE_OVER,
        default=defaults.normalise_over,
        help="what an encoder that normalises its input (w2v-BERT, most wav2vec 2.0 and HuBERT "
        "models) takes mean and variance of: the whole file, in a first pass, or each chunk "
        "(default: %(default)s)",
    )
    add(
        "--batch-size",
        type=int,
        default=4,
        metavar="N",
        help="the most chunks at once; chunks of several files go together (default: %(default)s)",
    )
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--amp",
        choices=["no", "bf16"],
        default="no",
        help="bf16: mixed precision, faster on GPUs (default: %(default)s)",
    )
    add(
        "--no-ema",
        action="store_true",
        help="take the trained weights themselves, not their moving average",
    )

    add(
        "--encoder-source",
        metavar="ID|DIR",
        help="where the base encoder lies now, if not where it was in training; its weights must "
        "be the same",
    )


def _ask_what_is_done(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--overwrite",
        action="store_true",
        help="restore everything again, also what another model or other options made",
    )
    add(
        "--num-shards",
        type=int,
        metavar="N",
        help="tasks of a job array that share the work out (tar shards are something else), each "
        "started with its --shard-id",
    )
    add("--shard-id", type=int, metavar="K", help="which of them this one is: 0 … N - 1")
    add(
        "--dry-run",
        action="store_true",
        help="say how many files and hours there are, how many bytes will come, and which inputs "
        "are unreadable; write nothing",
    )


def main() -> int:
    """Check, load, restore, sum up."""
    arguments = parse_arguments()
    with contact():
        world = start(arguments.device, timeout_minutes=7 * 24 * 60)  # ranks end hours apart
        try:
            code = _restore(arguments, world)
        except KeyboardInterrupt:  # the second one: the first lets the files in work come to an end
            return 130
        world.close()
    return code


def _restore(arguments: argparse.Namespace, world: World) -> int:
    shard = world.agree(lambda: _shard(arguments))
    if arguments.dry_run:
        return _preview(world.agree(lambda: _task(arguments, world)), shard, arguments, world)
    stop = StopSignal()  # a model may take minutes to load
    task = world.agree(lambda: _task(arguments, world))
    return _run(task, shard, arguments, world, stop)


def _task(arguments: argparse.Namespace, world: World) -> Task:
    options = RestoreOptions(
        sample_rate=arguments.sample_rate,
        channels=arguments.channels,
        level=arguments.level,
        strength=arguments.strength,
        chunk_seconds=arguments.chunk_seconds,
        overlap_seconds=arguments.overlap_seconds,
        normalise_over=arguments.normalise_over,
        seed=arguments.seed,
    )
    file_format = FileFormat(arguments.format, arguments.subtype)
    make_task = check_inputs(arguments, file_format)
    restorer = Restorer.from_checkpoint(
        arguments.ckpt_dir,
        options,
        arguments.batch_size,
        world.device,
        arguments.amp,
        ema=not arguments.no_ema,
        encoder_source=arguments.encoder_source,
    )
    return make_task(restorer)


def _shard(arguments: argparse.Namespace) -> Shard | None:
    count, index = arguments.num_shards, arguments.shard_id
    if (count is None) != (index is None):
        raise UserError("--num-shards and --shard-id belong together; give both or none")
    return None if count is None else Shard(count, index)


def _preview(task: Task, shard: Shard | None, arguments: argparse.Namespace, world: World) -> int:
    text, well = on_main(world, lambda: task.preview(arguments.overwrite, shard))
    if world.is_main:
        print(text)
    return 0 if well else 1


def _run(
    task: Task,
    shard: Shard | None,
    arguments: argparse.Namespace,
    world: World,
    stop: StopSignal,
) -> int:
    summary = run(task, arguments.output_dir, world, arguments.overwrite, shard, stop)
    if world.is_main:
        print(f"{summary.num_done} {task.unit} restored, {summary.num_failed} {task.failed}")
        if summary.stopped:
            print(f"ended early by {summary.stopped}; the same command goes on with what is left")
        if summary.num_failed:
            status = f"python src/status.py {shlex.quote(str(arguments.output_dir))}"
            print(f"the reasons: {status}")
            print(f"to try them again: {status} --retry-failed, and then this command")
    return summary.exit_code


def _sample_rate(text: str) -> int | str:
    if text in ("model", "input"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: choose model, input or a number in Hz")
    return int(text)


if __name__ == "__main__":
    run_as_rank(main)
