"""Generate speech with a diffusion: `src/generate.py --ckpt-dir D [--n-samples N]`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

from open_miipher.base.errors import UserError
from open_miipher.corpus.outcome import INTERRUPTED, MaxFailures

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.corpus.generating import MelFiles, Numbers
    from open_miipher.diffusion.generator import Generator
    from open_miipher.distributed import World

BATCH_SIZE = 16

DESCRIPTION = """\
Generate speech with a trained diffusion: clips from nothing, numbered 000000.wav …, or the sound of
log-mels in .npy files, under their names.

Clip i depends on the model, --seed, i and --batch-size alone, so that one process or many make the
same files. Started again, the command goes on with what is left. On a CPU each process uses one
core: start as many as there are.
"""

EXAMPLES = """\
exit status: 0 all is made, but for --max-failures; 2 wrong use, or nothing more can be written;
3 more mels failed; 4 a signal ended the run early, and the same command goes on.

examples:
  python src/generate.py --ckpt-dir output/RUN --n-samples 16
  torchrun --standalone --nproc_per_node 8 src/generate.py --ckpt-dir output/RUN --ckpt best \\
      --output-dir clips --n-samples 2048 --batch-size 128
  python src/generate.py --ckpt-dir output/RUN --mel-dir mel256 --sampler fast
"""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--ckpt-dir", required=True, metavar="DIR", help="output directory of a run, or checkpoint")
    add(
        "--ckpt",
        default="newest",
        metavar="newest|best|STEP",
        help="which checkpoint, where --ckpt-dir is the output directory of a run (default: "
        "%(default)s)",
    )
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
        help=f"of them at once (default: {BATCH_SIZE})",
    )
    add("--mel-dir", type=Path, metavar="DIR", help="log-mels, .npy, (bands, frames), to vocode")
    add("--mel-name", metavar="NAME", help="the only one of them to vocode, such as LJ001-0001")
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)")
    add(
        "--sampler",
        choices=["ddpm", "fast"],
        default="ddpm",
        help="ddpm: every step of training; fast: the few of --fast-levels (default: %(default)s)",
    )
    add(
        "--fast-levels",
        metavar="B,B,…",
        help="variances of the steps, from the least noise (default: the paper's six, "
        "1e-4,1e-3,.01,.05,.2,.5)",
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
        "--overwrite",
        action="store_true",
        help="make everything again, and delete numbered clips of runs before that are not asked "
        "for any more",
    )
    add(
        "--max-failures",
        default="0",
        metavar="N|P%",
        help="so many mels, or such a share, may fail without an exit status of 3 (default: "
        "%(default)s)",
    )
    return parser.parse_args()


def main(arguments: argparse.Namespace | None = None) -> int:
    """Check, load, generate, sum up."""
    arguments = arguments or parse_arguments()
    from open_miipher.distributed import contact, start

    with contact("a smaller --batch-size", again="start the same command again"):
        world = start(
            arguments.device,
            timeout_minutes=7 * 24 * 60,  # ranks end hours apart
            collectives=False,
            cpu_option="--device cpu",
        )
        try:
            code = _generate(arguments, world)
        except KeyboardInterrupt:  # the second one
            return INTERRUPTED
        world.close()
    return code


def _generate(arguments: argparse.Namespace, world: "World") -> int:
    import torch

    from open_miipher.checkpoint import Checkpoint
    from open_miipher.corpus.generating import Generate
    from open_miipher.corpus.run import run
    from open_miipher.distributed import StopSignal

    allowed = world.agree(lambda: MaxFailures(arguments.max_failures))
    world.agree(lambda: _check_seed(arguments.seed))
    stop = StopSignal()
    checkpoint = world.agree(lambda: Checkpoint.open(arguments.ckpt_dir, arguments.ckpt))
    output_dir = world.agree(lambda: arguments.output_dir or _default_output(checkpoint))
    world.once_a_machine(checkpoint.verify)
    if world.device.type == "cpu":
        torch.set_num_threads(1)  # what several threads share out decides over last bits
    generator = world.agree(lambda: _generator(arguments, checkpoint, world))
    inputs = world.agree(lambda: _inputs(arguments, generator))
    if world.is_main:
        print(f"{checkpoint.described}, into {output_dir}", flush=True)
    world.on_main(lambda: inputs.check(output_dir))
    task = Generate(generator, inputs, output_dir, arguments.seed)
    summary = run(task, output_dir, world, arguments.overwrite, None, stop, allowed)
    if world.is_main:
        print(summary.sentence("made"))
        if summary.stopped:
            print(f"ended early by {summary.stopped}; the same command goes on with what is left")
        if summary.num_failed:
            print(f"the reasons: python src/status.py {shlex.quote(str(output_dir))}")
    return summary.exit_code


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: choose a whole number, 0 to 2^63 - 1")


def _generator(
    arguments: argparse.Namespace, checkpoint: "Checkpoint", world: "World"
) -> "Generator":
    from open_miipher.diffusion.generator import Generator

    generator = Generator.from_checkpoint(
        replace(checkpoint, is_verified=True), world.device, arguments.amp, not arguments.no_ema
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


if __name__ == "__main__":
    from open_miipher.distributed import run_as_rank

    run_as_rank(main)
