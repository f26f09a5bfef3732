"""Restore a corpus: `src/inference.py [--ckpt-dir D] --input-audio-dir I --output-dir O`."""

import argparse
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from open_miipher.audio.formats import FORMATS, SAMPLE_BYTES, FileFormat
from open_miipher.base.atomic import remove_leftovers
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.shipped import as_called
from open_miipher.base.streams import is_output_lost
from open_miipher.commands import Help
from open_miipher.corpus.outcome import INTERRUPTED, MaxFailures

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.corpus.array import ArrayTask
    from open_miipher.corpus.feeding import Workers
    from open_miipher.corpus.inputs import Inputs
    from open_miipher.corpus.restoring import Restore
    from open_miipher.distributed import StopSignal, World
    from open_miipher.restoration import RestoreOptions, Restorer

DESCRIPTION = """\
Restore every recording under a directory, in a manifest, or in tar shards, or one recording, with
the model that comes with the project, or with a chain that you trained.

wav, flac, mp3, ogg, opus, aiff and caf files of any rate, length and number of channels are read;
nothing is written beside them. Other files of a directory (m4a, mp4, wma, …) are counted, with a
command that converts them. The outputs have the same folders and names; two inputs that would
get one name (a/x.wav, a/x.flac) get two (a/x.wav, a/x.flac.wav). Every output is as long as its
input: frames = round(input frames * output rate / input rate), at least 1.

From shards to shards, every sample keeps its key and its other members (text, speaker, …) byte for
byte; a sample that cannot be restored is left out, and told. --output-shards does the same for a
directory or a manifest. Segments of a manifest have their span in the name (x@2.5+1.wav).

Started again, the command goes on with what is left, with another number of processes or array
tasks too. Inputs that changed since are restored again; those that failed and did not change are
not tried again (src/status.py --retry-failed). OUTPUT_DIR/manifest.jsonl lists every input: output,
durations, rates, levels, clipped samples, trust, model, error. OUTPUT_DIR/.ledger is the record
that all this rests on: keep it.
"""

EXAMPLES = """\
exit status: 0 all is restored, but for --max-failures; 2 wrong use, or nothing more can be written;
3 more failed (see src/status.py); 4 a signal ended the run early, and the same command goes on.
torchrun makes 1 of all but 0: python src/status.py OUTPUT_DIR --exit-status has the number.

examples:
  python src/inference.py noisy clean
  python src/inference.py noisy.mp3 clean.wav
  ffmpeg -v error -i film.mkv -f wav - | python src/inference.py - - >clean.wav
  torchrun --standalone --nproc_per_node 8 src/inference.py --ckpt-dir CKPT \\
      --input-audio-dir /data/noisy --output-dir /data/restored --format flac --amp bf16
  python src/inference.py --ckpt-dir CKPT --input-audio-dir /data/noisy \\
      --output-dir /data/restored --num-shards 64 --shard-id $SLURM_ARRAY_TASK_ID
  python src/inference.py --ckpt-dir CKPT --input-shards 's3://bucket/noisy/{0000..0999}.tar' \\
      --s3-endpoint-url https://store.example --output-dir /data/restored --format flac
  python src/inference.py --ckpt-dir CKPT --input-manifest segments.jsonl --output-shards 1000 \\
      --output-dir /data/restored
"""


_STANDARD = Path("-")  # input or output
_UNCLIPPED = "--subtype FLOAT keeps all, --level peak leaves room"
_OF_RUNS = (
    *("shard_member", "s3_endpoint_url", "s3_profile", "output_shards", "num_shards", "shard_id"),
    *("outputs_elsewhere", "max_failures", "dry_run", "num_workers"),
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    add = parser.add_argument
    add(
        "--ckpt-dir",
        metavar="DIR",
        help="a checkpoint of a whole chain (stage 3, or the small restorer), or the output "
        "directory of its run (its newest one); default: the small restorer in pretrained/default",
    )
    add(
        "--ckpt",
        default="newest",
        metavar="newest|best|STEP",
        help="which checkpoint, where --ckpt-dir is the output directory of a run (default: "
        "%(default)s)",
    )
    add(
        "paths",
        nargs="*",
        metavar="IN OUT",
        help="a folder of recordings, and one for the outputs; or one recording, and a file for "
        "the output (.wav or .flac), which is not replaced without --overwrite; - is standard "
        "input or standard output",
    )
    add("--output-dir", type=_OUTPUTS, metavar="DIR", help="where the outputs go: OUT")
    _ask_what_comes_in(parser.add_argument_group("what comes in (IN, or one of the first three)"))
    _ask_what_comes_out(parser.add_argument_group("what comes out"))
    _ask_how(parser.add_argument_group("how it is computed"))
    _ask_what_is_done(parser.add_argument_group("what is done"))
    # parse_intermixed_args formats the usage once more, and would stumble over "P%".
    parser.usage = parser.format_usage().removeprefix("usage: ").replace("%", "%%")
    arguments = parser.parse_intermixed_args(argv)
    _take_paths(arguments, parser)
    return arguments


def _take_paths(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Have IN and OUT as the options that mean the same, or one recording as `recording`."""
    paths, arguments.recording = arguments.paths, None
    options = ("input_audio_dir", "input_manifest", "input_shards")
    is_named = any(getattr(arguments, name) is not None for name in options)
    if not paths:
        if not is_named:
            parser.error("give IN and OUT, or one of --input-audio-dir, -manifest and -shards")
        if arguments.output_dir is None:
            parser.error("--output-dir is missing: it says where the outputs go")
        return
    if is_named or arguments.output_dir is not None:
        parser.error("give either IN and OUT, or --input-… and --output-dir")
    if len(paths) != 2:
        parser.error(
            f"IN and OUT are two paths, not {len(paths)}; several recordings can be given as a "
            "folder, or in a manifest (--input-manifest)"
        )
    try:
        source, output = _INPUTS(paths[0]), _OUTPUTS(paths[1])
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if os.path.isdir(source):  # unlike pathlib's, it takes a name that is too long
        if output == _STANDARD:
            parser.error(f"- takes one recording, and {source} is a folder: name one for OUT")
        arguments.input_audio_dir, arguments.output_dir = source, output
        return
    arguments.recording = source, output
    for name in _OF_RUNS:
        if getattr(arguments, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} goes with a folder, and IN is {source}")


def _ask_what_comes_in(group: argparse._ArgumentGroup) -> None:
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--input-audio-dir",
        type=_INPUTS,
        metavar="DIR",
        help="all audio files under a directory",
    )
    add(
        "--input-manifest",
        type=_INPUTS,
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


def _ask_what_comes_out(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--sample-rate",
        type=_sample_rate,
        default="model",
        metavar="model|input|HZ",
        help="of the outputs: the model's (default), each input's own, or a number",
    )
    add(
        "--channels",
        choices=["mono", "each"],
        default="mono",
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
        choices=["match-input", "peak", "none"],
        default="match-input",
        help="match-input: speech as loud as in the input; peak: every file at a peak of 0.9; "
        "none: as the model gives it (default: %(default)s)",
    )
    add(
        "--strength",
        type=float,
        default=1.0,
        metavar="0…1",
        help="share of the restored signal, the rest is the input (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the noise that the vocoder starts from (default: %(default)s)",
    )
    add(
        "--trust",
        action=argparse.BooleanOptionalAction,
        help="give every file a score of 0 to 1 that says how far its speech can be trusted to be "
        "as it was, and the reason (docs/trust.md; default: for models with the encoders stft and "
        "log_mel, the default model among them, whose time it takes a share of)",
    )
    add(
        "--min-trust",
        type=float,
        default=0.0,
        metavar="0…1",
        help="where trust is lower, the output is the input, only brought to the output's rate and "
        "format; told in the manifest (default: keep every output)",
    )
    add(
        "--output-shards",
        type=int,
        metavar="N",
        help="write tar shards of N samples (restored-000000.tar …) and no file for each; always "
        "local: copy them to a store yourself. Nothing to do with --num-shards",
    )


def _ask_how(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--chunk-seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="how much of a file the model sees at once, at most 30 for Gemma 3n (default: "
        "%(default)s)",
    )
    add(
        "--overlap-seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="shared by neighbouring chunks, at most half a chunk (default: %(default)s)",
    )
    add(
        "--normalise-over",
        choices=["file", "chunk", "past"],
        default="file",
        help="what an encoder that normalises its input (w2v-BERT, most wav2vec 2.0 and HuBERT "
        "models) takes mean and variance of: the whole file, in a first pass, or each chunk; past: "
        "each chunk, and the level of speech from what came before it, as in a stream (default: "
        "%(default)s)",
    )
    add(
        "--batch-size",
        type=_positive,
        metavar="N",
        help="the most chunks at once; chunks of several files go together (default: on a GPU what "
        "a trial of some seconds finds fastest, on a CPU 4)",
    )
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--ranks-per-gpu",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that share a GPU, each with a copy of the model (default: %(default)s)",
    )
    add(
        "--num-workers",
        type=_not_negative,
        metavar="N",
        help="processes that read and write beside each one with a model; 0: that does it itself "
        "(default: on a GPU, a core each where there is much to restore; on a CPU 0)",
    )
    add(
        "--amp",
        choices=["no", "bf16"],
        help="bf16: weights in 16 bits, faster on GPUs, and another output than with no: say which "
        "where unlike machines share a run (default: bf16 on GPUs that compute in it, else no)",
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
        "--outputs-elsewhere",
        action="store_true",
        help="what the ledger calls done is done, also where its output was moved away, to a store "
        "for one",
    )
    add(
        "--max-failures",
        default="0",
        metavar="N|P%",
        help="so many files (of shards: shards that lack a sample), or such a share, may fail "
        "without an exit status of 3 (default: %(default)s)",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Check, load, restore, sum up."""
    arguments = parse_arguments(argv)
    from open_miipher.distributed import contact, start

    less_memory = "a smaller --batch-size, shorter --chunk-seconds, or fewer --ranks-per-gpu"
    with contact(less_memory, again="start the same command again"):
        world = start(
            arguments.device,
            timeout_minutes=7 * 24 * 60,  # ranks end hours apart
            collectives=False,
            ranks_per_device=arguments.ranks_per_gpu,
            cpu_option="--device cpu",
        )
        try:
            code = _restore(arguments, world)
        except KeyboardInterrupt:  # the second one: the first lets the files in work come to an end
            return INTERRUPTED
        world.close()
    return code


def _restore(arguments: argparse.Namespace, world: "World") -> int:
    from open_miipher.distributed import StopSignal

    if arguments.recording is not None:
        return _restore_one(arguments, world)
    array_task = world.agree(lambda: _array_task(arguments))
    allowed = world.agree(lambda: MaxFailures(arguments.max_failures))
    stop = None if arguments.dry_run else StopSignal()  # a model may take minutes to load
    with _workers(arguments, world) as workers:
        task = _task(arguments, world, workers)
        if stop is None:
            return _preview(task, array_task, allowed, arguments, world)
        return _run(task, array_task, allowed, arguments, world, stop)


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
    world.once_a_machine(checkpoint.verify)
    if arguments.ranks_per_gpu > 1 and world.device.type == "cuda":
        import torch

        # One rank's trial of batch sizes must not take the memory of the others.
        torch.cuda.set_per_process_memory_fraction(1 / arguments.ranks_per_gpu, world.device)
    restorer = world.agree(
        lambda: Restorer.from_checkpoint(
            replace(checkpoint, is_verified=True),
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


def _restore_one(arguments: argparse.Namespace, world: "World") -> int:
    """Restore one recording; what is said goes to standard error, so that audio may go out."""
    if world.size > 1:
        raise UserError(
            "one recording is restored by one process: start it without torchrun", shared=True
        )
    from open_miipher.audio.io import probe
    from open_miipher.distributed import stop_signals_interrupt

    stop_signals_interrupt()
    source, output = arguments.recording
    if source != _STANDARD:
        probe(source)  # here, and below: before the model is loaded, which takes seconds
    output, file_format = _one_output(source, output, arguments)
    options = _options(arguments)
    with _temporary_folder() if _STANDARD in (source, output) else nullcontext(Path()) as folder:
        made = folder / "restored" if output == _STANDARD else output
        with redirect_stdout(sys.stderr):
            if source == _STANDARD:
                source = _standard_input(folder)
                probe(source)
            restorer = _load(options, arguments, world)
            restorer.decide_on_trust()
            sink = restorer.restore_file(source, made, file_format)
            if sink.num_clipped:
                print(f"{sink.num_clipped:,} samples were clipped at full scale; {_UNCLIPPED}")
        if output == _STANDARD:
            with made.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
            if is_output_lost():
                raise UserError("standard output cannot be written; see the warning above")
    return 0


def _one_output(
    source: Path, output: Path, arguments: argparse.Namespace
) -> tuple[Path, FileFormat]:
    """Return the file that a recording becomes (or `-`), and how it is written."""
    if output == _STANDARD:
        if sys.stdout.isatty():
            raise UserError("standard output is a terminal: send it into a file or a program")
        return output, FileFormat(arguments.format, arguments.subtype)
    if os.path.isdir(output):
        if source == _STANDARD:
            raise UserError(f"{printable(output)} is a folder; name the file for the output")
        output = output / f"{source.stem}.{arguments.format}"
    ending = output.suffix[1:].lower()
    if ending not in FORMATS or arguments.format not in ("wav", ending):  # wav: the default
        raise UserError(
            f"{printable(output)}, --format {arguments.format}: let OUT end in .wav or .flac, "
            "which says how it is written"
        )
    if os.path.exists(output) and not arguments.overwrite:
        raise UserError(f"{printable(output)} is there already; --overwrite replaces it")
    if os.path.exists(output) and source != _STANDARD and output.samefile(source):
        raise UserError(f"{printable(output)} is IN itself; give it another name")
    remove_leftovers([output])
    return output, FileFormat(ending, arguments.subtype)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = TemporaryDirectory(prefix="open_miipher-")
    except OSError as error:
        raise UserError(f"- needs a temporary file: {error.strerror}; set TMPDIR") from error
    with folder as name:
        yield Path(name)


def _standard_input(folder: Path) -> Path:
    """Return a file that holds all of standard input: a recording is read more than once.

    Raises:
        UserError: nothing comes in, or there is no room for it.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("nothing is sent into standard input: send a recording, or name a file")
    path = folder / "standard input"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise UserError(
            f"standard input cannot be kept in {printable(path)} ({error.strerror}), which takes "
            "all of it; set TMPDIR to a folder with more room"
        ) from error
    if not path.stat().st_size:
        raise UserError("standard input is empty: the program before this one gave nothing")
    return path


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
        min_trust=arguments.min_trust,
    )


def _inputs(arguments: argparse.Namespace) -> "Inputs":
    from open_miipher.corpus.recordings import Directory, Manifest
    from open_miipher.corpus.tars import Groups, TarShards
    from open_miipher.shards import S3Config, Storage

    size = arguments.output_shards
    if arguments.input_shards is not None:
        if size is not None:
            raise UserError("--input-shards gives one shard for each; leave out --output-shards")
        storage = Storage(S3Config(arguments.s3_endpoint_url, arguments.s3_profile))
        return TarShards(arguments.input_shards, storage, arguments.shard_member)
    for name in ("shard_member", "s3_endpoint_url", "s3_profile"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with --input-shards alone")
    recordings = (
        Manifest(arguments.input_manifest)
        if arguments.input_audio_dir is None
        else Directory(arguments.input_audio_dir)
    )
    return recordings if size is None else Groups(recordings, size)


def _array_task(arguments: argparse.Namespace) -> "ArrayTask | None":
    from open_miipher.corpus.array import ArrayTask

    count, index = arguments.num_shards, arguments.shard_id
    if (count is None) != (index is None):
        raise UserError("--num-shards and --shard-id belong together; give both or none")
    return None if count is None else ArrayTask(count, index)


def _preview(
    task: "Restore",
    array_task: "ArrayTask | None",
    allowed: MaxFailures,
    arguments: argparse.Namespace,
    world: "World",
) -> int:
    text, status = world.on_main(lambda: task.preview(arguments.overwrite, array_task, allowed))
    if world.is_main:
        print(text)
    return status


def _run(
    task: "Restore",
    array_task: "ArrayTask | None",
    allowed: MaxFailures,
    arguments: argparse.Namespace,
    world: "World",
    stop: "StopSignal",
) -> int:
    from open_miipher.corpus.ledger import MANIFEST_NAME
    from open_miipher.corpus.run import run

    summary = run(task, arguments.output_dir, world, arguments.overwrite, array_task, stop, allowed)
    if world.is_main:
        print(summary.sentence("restored"))
        if summary.num_carried:
            print(f"{summary.num_carried:,} members that are no audio were carried along")
        if summary.num_clipped:
            print(
                f"{summary.num_clipped:,} {summary.unit} have samples that were clipped at full "
                f"scale (clipped_samples in {MANIFEST_NAME}); {_UNCLIPPED}"
            )
        if summary.num_kept:
            print(
                f"{summary.num_kept:,} recordings were kept as they were, trusted less than "
                f"--min-trust {arguments.min_trust:g} (kept_input in {MANIFEST_NAME})"
            )
        if summary.stopped:
            print(f"ended early by {summary.stopped}; the same command goes on with what is left")
        if summary.num_failed:
            status = as_called(f"python src/status.py {shlex.quote(str(arguments.output_dir))}")
            print(f"the reasons: {status}")
            print(f"to try them again: {status} --retry-failed, and then this command")
    return summary.exit_code


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: choose 1 or more")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: choose 0 or more")
    return int(text)


def _local(mend: str) -> Callable[[str], Path]:
    """Return the type of a path on this machine; a store is answered with the mend."""

    def parse(text: str) -> Path:
        if "://" in text:
            raise argparse.ArgumentTypeError(f"{text} is no path of this machine: {mend}")
        return Path(text)

    return parse


_OUTPUTS = _local(
    "restore into a folder, upload what is done, remove it, and go on with --outputs-elsewhere "
    "(docs/restoring.md shows it from end to end)"
)
_INPUTS = _local("give tar shards of a store with --input-shards, or copy the files here")


def _sample_rate(text: str) -> int | str:
    if text in ("model", "input"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: choose model, input or a number in Hz")
    return int(text)
