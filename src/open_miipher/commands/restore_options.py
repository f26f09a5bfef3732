"""The command line of `open-miipher restore`."""

import argparse
import os
from collections.abc import Sequence

from open_miipher.audio.formats import FORMATS, SAMPLE_BYTES
from open_miipher.commands import Parser
from open_miipher.commands.one_recording import STANDARD
from open_miipher.commands.options import (
    ask_for_array_task,
    ask_for_ema,
    ask_for_failures,
    ask_for_inputs,
    ask_which_checkpoint,
    local,
    local_input,
    not_negative,
    positive,
)

DESCRIPTION = """\
Restore every recording under a directory, in a manifest, or in tar shards, or one recording, with
the model that comes with the project, or with a chain that you trained.

wav, flac, mp3, ogg, opus, m4a, mp4 and many other files of any rate, length and number of channels
are read; nothing is written beside them. Other files of a directory (gsm, dss, txt, …) are counted,
with a command that converts them. The outputs have the same folders and names; two inputs that
would get one name (a/x.wav, a/x.flac) get two (a/x.wav, a/x.flac.wav). Every output is as long as
its input: frames = round(input frames * output rate / input rate), at least 1.

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

_OF_RUNS = (
    *("shard_member", "s3_endpoint_url", "s3_profile", "output_shards", "num_shards", "shard_id"),
    *("outputs_elsewhere", "max_failures", "dry_run", "num_workers"),
)
_local_output = local(
    "restore into a folder, upload what is done, remove it, and go on with --outputs-elsewhere "
    "(docs/restoring.md shows it from end to end)"
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add(
        "--ckpt-dir",
        metavar="DIR",
        help="a checkpoint of a whole chain (stage 3, or the small restorer), or the output "
        "directory of its run (its newest one); default: the small restorer in pretrained/default",
    )
    ask_which_checkpoint(parser)
    add(
        "paths",
        nargs="*",
        metavar="IN OUT",
        help="a folder of recordings, and one for the outputs; or one recording, and a file for "
        "the output (.wav or .flac), which is not replaced without --overwrite; - is standard "
        "input or standard output",
    )
    add("--output-dir", type=_local_output, metavar="DIR", help="where the outputs go: OUT")
    comes_in = parser.add_argument_group("what comes in (IN, or one of the first three)")
    ask_for_inputs(comes_in, "restore", required=False)
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
            parser.error(
                "give IN and OUT, or one of --input-audio-dir, --input-manifest and --input-shards"
            )
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
        source, output = local_input(paths[0]), _local_output(paths[1])
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if os.path.isdir(source):  # unlike pathlib's, it takes a name that is too long
        if output == STANDARD:
            parser.error(f"- takes one recording, and {source} is a folder: name one for OUT")
        is_recording = paths[1].lower().endswith(tuple(f".{kind}" for kind in FORMATS))
        if is_recording and not os.path.isdir(output):
            parser.error(f"IN is a folder, {source}, and OUT a recording, {output}: name a folder")
        arguments.input_audio_dir, arguments.output_dir = source, output
        return
    arguments.recording = source, output
    for name in _OF_RUNS:
        if getattr(arguments, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} goes with a folder, and IN is {source}")


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
        "--trust-speaker",
        action="store_true",
        help="have a network say too, where the input is good, whether the speaker is the same "
        "(resemblyzer: pip install '.[evaluation]')",
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
        type=positive,
        metavar="N",
        help="the most chunks in a batch; chunks of several files go together (default: on a GPU "
        "what a trial of some seconds finds fastest; on a CPU 1, several batches at once)",
    )
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--ranks-per-gpu",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share a GPU, each with a copy of the model (default: %(default)s)",
    )
    add(
        "--num-workers",
        type=not_negative,
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
    ask_for_ema(group)
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
    ask_for_failures(group, "files (of shards: shards that lack a sample)")
    ask_for_array_task(group)
    add(
        "--dry-run",
        action="store_true",
        help="say how many files and hours there are, how many bytes will come, and which inputs "
        "are unreadable; write nothing",
    )


def _sample_rate(text: str) -> int | str:
    if text in ("model", "input"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: choose model, input or a number in Hz")
    return int(text)
