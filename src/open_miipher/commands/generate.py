"""Generate speech: `src/generate.py --ckpt-dir D [--n-samples N | --text "…"]`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.base.errors import UserError
from open_miipher.commands import Parser
from open_miipher.commands.options import ask_for_ema, ask_for_failures, ask_which_checkpoint
from open_miipher.commands.runs import as_rank, say_how_it_ended, verified
from open_miipher.corpus.outcome import MaxFailures

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.corpus.generating import MelFiles, Numbers
    from open_miipher.corpus.run import Task
    from open_miipher.diffusion.generator import Generator
    from open_miipher.distributed import World

BATCH_SIZE = 16

DESCRIPTION = """\
Generate speech with a trained model. A diffusion makes clips from nothing, numbered 000000.wav …,
or the sound of log-mels in .npy files, under their names. A text-to-speech model says texts, named
by their line and a hash of the text: 000001-1a2b3c4d.wav.

Clip i depends on the model, --seed, i and --batch-size alone, so that one process or many make the
same files; of texts said several at once, but for the last bits. Started again, the command goes on
with what is left. On a CPU each process uses one core: start as many as there are.
"""

EXAMPLES = """\
exit status: 0 all is made, but for --max-failures; 2 wrong use, or nothing more can be written;
3 more mels or texts failed; 4 a signal ended the run early, and the same command goes on.

examples:
  python src/generate.py --ckpt-dir output/RUN --n-samples 16
  torchrun --standalone --nproc_per_node 8 src/generate.py --ckpt-dir output/RUN --ckpt best \\
      --output-dir clips --n-samples 2048 --batch-size 128
  python src/generate.py --ckpt-dir output/RUN --mel-dir mel256 --sampler fast
  python src/generate.py --ckpt-dir output/RUN --text "I am happy you are here"
  python src/generate.py --ckpt-dir output/RUN --text-file lines.txt --num-beams 4
  python src/generate.py --ckpt-dir output/RUN --split validation --n 8
"""

_OF_DIFFUSION = ("n_samples", "mel_dir", "mel_name", "fast_levels", "sampler")
_OF_TEXT = (
    *("text", "text_file", "split", "n", "num_beams", "no_sample", "temperature", "top_k"),
    "max_new_tokens",
)
_SPLIT_TEXTS = 8


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("--ckpt-dir", required=True, metavar="DIR", help="output directory of a run, or checkpoint")
    ask_which_checkpoint(parser)
    add(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="where the files go (default: waveforms/STEP of the run)",
    )
    add("--n-samples", type=int, metavar="N", help="how many clips from nothing (default: 16)")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"of them, or of texts, at once (default: {BATCH_SIZE}, of texts 1)",
    )
    add("--mel-dir", type=Path, metavar="DIR", help="log-mels, .npy, (bands, frames), to vocode")
    add("--mel-name", metavar="NAME", help="the only one of them to vocode, such as LJ001-0001")
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)")
    add(
        "--sampler",
        choices=["ddpm", "fast"],
        help="ddpm: every step of training; fast: the few of --fast-levels (default: ddpm)",
    )
    add(
        "--fast-levels",
        metavar="B,B,…",
        help="variances of the steps, from the least noise (default: the paper's six, "
        "1e-4,1e-3,.01,.05,.2,.5)",
    )
    add("--text", metavar="TEXT", help="to be said")
    add("--text-file", type=Path, metavar="FILE", help="of texts to be said, one a line, in UTF-8")
    add(
        "--split",
        choices=["train", "validation"],
        help="say texts that the model was trained on, or validated with",
    )
    add("--n", type=int, metavar="N", help=f"so many of them (default: {_SPLIT_TEXTS})")
    add("--num-beams", type=int, metavar="N", help="speeches that are followed (default: 1)")
    add("--no-sample", action="store_true", help="say what is likeliest, and draw nothing")
    add("--temperature", type=float, metavar="T", help="of the draws (default: 1)")
    add("--top-k", type=int, metavar="K", help="draw among so many tokens only (default: all)")
    add("--max-new-tokens", type=int, metavar="N", help="of a text (default: data.seconds of them)")
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--amp",
        choices=["no", "bf16"],
        default="no",
        help="bf16: mixed precision, faster on GPUs (default: %(default)s)",
    )
    ask_for_ema(parser)
    add(
        "--overwrite",
        action="store_true",
        help="make everything again, and delete numbered clips of runs before that are not asked "
        "for any more",
    )
    ask_for_failures(parser, "mels or texts")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, load, generate, sum up."""
    arguments = parse_arguments(argv)
    return as_rank(
        lambda world: _generate(arguments, world), arguments.device, "a smaller --batch-size"
    )


def _generate(arguments: argparse.Namespace, world: "World") -> int:
    import torch

    from open_miipher.checkpoint import Checkpoint
    from open_miipher.corpus.run import run
    from open_miipher.distributed import StopSignal

    allowed = world.agree(lambda: MaxFailures(arguments.max_failures))
    world.agree(lambda: _check_seed(arguments.seed))
    stop = StopSignal()
    checkpoint = world.agree(lambda: Checkpoint.open(arguments.ckpt_dir, arguments.ckpt))
    output_dir = world.agree(lambda: arguments.output_dir or _default_output(checkpoint))
    checkpoint = verified(checkpoint, world)
    if world.device.type == "cpu":
        torch.set_num_threads(1)  # what several threads share out decides over last bits
    build = _speak if "token_tts" in checkpoint.networks else _diffuse
    task, check = world.agree(lambda: build(arguments, checkpoint, world, output_dir))
    if world.is_main:
        print(f"{checkpoint.described}, into {output_dir}", flush=True)
    world.on_main(check)
    summary = run(task, output_dir, world, arguments.overwrite, None, stop, allowed)
    if world.is_main:
        say_how_it_ended(summary, summary.sentence("made"), output_dir)
    return summary.exit_code


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: choose a whole number, 0 to 2^63 - 1")


def _refuse(arguments: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Refuse options that another kind of model has.

    Raises:
        UserError: one is given.
    """
    values = {name: getattr(arguments, name) for name in options}
    given = [name for name, value in values.items() if value is not None and value is not False]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} {why}")


def _speak(
    arguments: argparse.Namespace, checkpoint: "Checkpoint", world: "World", output_dir: Path
) -> "tuple[Task, Callable[[], None]]":
    """Return the task that says texts, and its last check.

    Raises:
        UserError: the options do not fit the model or each other.
    """
    from open_miipher.corpus.speaking import Lines, Speak, lines_of_file, texts_of_split
    from open_miipher.synthesis import SamplingConfig
    from open_miipher.synthesis.speaking import Speaker

    _refuse(
        arguments,
        _OF_DIFFUSION,
        f"goes with a diffusion, and model={checkpoint.config['name']} says texts: give --text, "
        "--text-file or --split",
    )
    if arguments.amp != "no":
        raise UserError("--amp bf16 goes with a diffusion: leave it out")
    sources = arguments.text, arguments.text_file, arguments.split
    if sum(source is not None for source in sources) != 1:
        raise UserError("give what is to be said, by one of --text, --text-file and --split")
    if arguments.n is not None and arguments.split is None:
        raise UserError("--n goes with --split")
    speaker = Speaker.from_checkpoint(checkpoint, world.device, not arguments.no_ema)
    if arguments.text is not None:
        texts = [arguments.text]
        problem = speaker.problem(arguments.text)
        if problem is not None:
            raise UserError(f"--text: {problem}")
    elif arguments.text_file is not None:
        texts = lines_of_file(arguments.text_file)
    else:
        number = _SPLIT_TEXTS if arguments.n is None else arguments.n
        texts = texts_of_split(checkpoint, speaker, arguments.split, number)
    numbers = {
        name: getattr(arguments, name)
        for name in ("num_beams", "temperature", "top_k", "max_new_tokens")
        if getattr(arguments, name) is not None
    }
    sampling = SamplingConfig(**numbers, do_sample=not arguments.no_sample, seed=arguments.seed)
    inputs, size = Lines(texts), arguments.batch_size
    task = Speak(speaker, inputs, output_dir, sampling, 1 if size is None else size)
    return task, lambda: inputs.check(output_dir)


def _diffuse(
    arguments: argparse.Namespace, checkpoint: "Checkpoint", world: "World", output_dir: Path
) -> "tuple[Task, Callable[[], None]]":
    """Return the task of a diffusion, and its last check.

    Raises:
        UserError: the options do not fit the model or each other.
    """
    from open_miipher.corpus.generating import Generate

    _refuse(
        arguments,
        _OF_TEXT,
        f"goes with a text-to-speech model (model=token_tts_small, …), and "
        f"model={checkpoint.config['name']} says no texts: leave it out",
    )
    generator = _generator(arguments, checkpoint, world)
    inputs = _inputs(arguments, generator)
    task = Generate(generator, inputs, output_dir, arguments.seed)
    return task, lambda: inputs.check(output_dir)


def _generator(
    arguments: argparse.Namespace, checkpoint: "Checkpoint", world: "World"
) -> "Generator":
    from open_miipher.diffusion.generator import Generator

    generator = Generator.from_checkpoint(
        checkpoint, world.device, arguments.amp, not arguments.no_ema
    )
    if arguments.sampler == "fast":
        generator.use_fast(_levels(arguments.fast_levels))
    elif arguments.fast_levels is not None:
        raise UserError("--fast-levels goes with --sampler fast")
    return generator


def _levels(text: str | None) -> Sequence[float]:
    from open_miipher.diffusion import FAST_LEVELS

    if text is None:
        return FAST_LEVELS
    try:
        return [float(level) for level in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--fast-levels {text}: give numbers with commas, as 1e-4,.01,.5"
        ) from error


def _inputs(arguments: argparse.Namespace, generator: "Generator") -> "Numbers | MelFiles":
    """Return what is to be made.

    Raises:
        UserError: the options do not fit the model or each other.
    """
    from open_miipher.corpus.generating import MelFiles, Numbers

    given = [o for o in ("n_samples", "batch_size") if getattr(arguments, o) is not None]
    if generator.condition is None:
        if arguments.mel_dir is not None or arguments.mel_name is not None:
            raise UserError(
                "this model is unconditional (model.unconditional=true) and hears no mel: leave "
                "out --mel-dir and --mel-name, or give --ckpt-dir a vocoder"
            )
        seconds = generator.num_samples / generator.sample_rate
        number = 16 if arguments.n_samples is None else arguments.n_samples
        size = BATCH_SIZE if arguments.batch_size is None else arguments.batch_size
        return Numbers(number, size, seconds)
    if arguments.mel_dir is None:
        raise UserError("this model makes speech of mels: give --mel-dir a folder of .npy files")
    if given:
        option = given[0].replace("_", "-")
        raise UserError(f"--{option} goes with clips from nothing: leave it out beside --mel-dir")
    config = generator.condition.log_mel.config
    return MelFiles(arguments.mel_dir, arguments.mel_name, config)


def _default_output(checkpoint: "Checkpoint") -> Path:
    """Return waveforms/STEP beside the folder of the run's checkpoints.

    Raises:
        UserError: the checkpoint is in no run's folder.
    """
    if checkpoint.path.parent.name != "ckpt":
        raise UserError(
            f"{checkpoint.path} is in no run's ckpt folder: say by --output-dir where the files go"
        )
    return checkpoint.path.parents[1] / "waveforms" / str(checkpoint.state["step"])
