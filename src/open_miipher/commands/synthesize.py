"""Speak a set of texts: `torchrun src/synthesize.py dataset.name=… processing.save_dir=… …`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from open_miipher.base.errors import UserError
from open_miipher.commands import Parser
from open_miipher.commands.options import ask_for_overrides, print_config
from open_miipher.commands.runs import as_rank, say_how_it_ended

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.corpus.synthesising.config import SynthesisConfig
    from open_miipher.distributed import World

DESCRIPTION = """\
Speak a set of texts, and turn what is said into the tokens of a codec.

Texts come from the hub, or from a jsonl, csv, parquet or txt file. Speech that is empty, silent,
clipped, not finite or of an unlikely length is made again with another seed. SAVE_DIR gets

  audio_tokens_*.csv    index, text, audio, tokens (codes in time order, all codebooks of a frame
                        together), seconds, sample rate, seed, …, some hundred texts each
  audio_tokens.csv      all of them together, every index once
  audio/                FLAC files, or tar shards
  metadata.csv          the index that makes SAVE_DIR a training set (of files)
  failed.csv            index, text, attempts, reason; failed_indices_*.json: the indices alone

Without torchrun, processing.devices and processing.num_procs_per_device say which workers there
are. Killed at any instant and started again, with other numbers of processes and workers too, the
command goes on with what is left. What failed is not tried again until its text changes, or
src/status.py SAVE_DIR --retry-failed. --cfg job prints all keys.
"""

EXAMPLES = """\
exit status: 0 all is spoken, but for processing.max_failures; 2 wrong use, or nothing more can be
written; 3 more texts failed; 4 a signal ended the run early, and the same command goes on.
torchrun makes 1 of all but 0: python src/status.py SAVE_DIR --exit-status has it.

examples:
  python src/synthesize.py dataset.name=texts.txt processing.save_dir=spoken tts.backend=espeak \\
      codec=demo
  torchrun --standalone --nproc_per_node 8 src/synthesize.py dataset.name=user/texts \\
      dataset.text_column=sentence processing.save_dir=/data/spoken tts.batch_size=64
  python src/synthesize.py dataset.name=texts.jsonl processing.save_dir=spoken \\
      tts.backend=whisperspeech 'processing.devices=[cuda:0,cuda:1]' \\
      processing.num_procs_per_device=4
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument(
        "--config-name",
        default="synthetic_generation_cfg",
        metavar="NAME",
        help="the file in config/ to begin with, without its ending (default: %(default)s)",
    )
    ask_for_overrides(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compose, check, speak, sum up."""
    arguments = parse_arguments(argv)
    from open_miipher.config import compose_synthesis
    from open_miipher.distributed import alike_here

    config = alike_here(lambda: compose_synthesis(arguments.overrides, arguments.config_name))
    if arguments.cfg:
        print_config(config.plain)
        return 0
    alike_here(config.check)
    on_cpu = all(device == "cpu" for device in config.processing.devices)
    return as_rank(
        lambda world: _synthesise(config, world),
        "cpu" if on_cpu else None,
        "a smaller tts.batch_size",
        cpu_option="processing.devices=[cpu]",
    )


def _synthesise(config: "SynthesisConfig", world: "World") -> int:
    from open_miipher.corpus.pool import Pool
    from open_miipher.corpus.run import run
    from open_miipher.corpus.synthesising.task import Synthesise
    from open_miipher.corpus.synthesising.texts import Texts
    from open_miipher.distributed import StopSignal

    stop = StopSignal()
    devices = world.agree(lambda: _devices(config, world))
    world.agree(lambda: _set_up_logging(config, world))
    texts: Texts | None = None

    def read() -> None:
        nonlocal texts
        texts = Texts(config.dataset, config.tts.characters_per_second)

    world.on_main(read)
    with Pool(len(devices), config.processing.time_limit, retries=0) as pool:
        task = Synthesise(config, texts, pool, devices, world.size)
        world.on_main(task.check_overwriting)
        summary = run(
            task,
            config.folder,
            world,
            config.processing.overwrite,
            config.array_task,
            stop,
            config.allowed,
        )
    if world.is_main:
        sentence = f"{config.folder}: {summary.sentence('spoken')}"
        say_how_it_ended(summary, sentence, config.folder)
    return summary.exit_code


def _devices(config: "SynthesisConfig", world: "World") -> list[str]:
    """Return the device of every worker of this process.

    Raises:
        UserError: one of `processing.devices` is not here.
    """
    import torch

    from open_miipher.distributed.place import is_under_torchrun, place

    given, num_gpus = config.processing.devices, torch.cuda.device_count()
    on_gpus = world.device.type == "cuda"
    if given == "auto":
        own = [str(world.device)]
        if on_gpus and not is_under_torchrun() and world.size == 1:
            own = [f"cuda:{number}" for number in range(num_gpus)]
    else:
        known = {"cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{n}" for n in range(num_gpus))}
        strange = [device for device in given if device not in known]
        if strange:
            raise UserError(
                f"processing.devices: there is no {strange[0]} here, but {', '.join(sorted(known))}"
            )
        own = list(given)
        if is_under_torchrun() or world.size > 1:
            own = [given[place()[2] % len(given)]]
    return [device for device in own for _ in range(config.processing.num_procs_per_device)]


def _set_up_logging(config: "SynthesisConfig", world: "World") -> None:
    """Print what rank 0 logs, and append what all ranks log to the file.

    Raises:
        OSError: the file cannot be written.
    """
    logger = logging.getLogger("open_miipher.synthesis")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(config.logging.console_level if world.is_main else logging.CRITICAL)
    logger.handlers = [console]
    logging.raiseExceptions = False  # a full disk is told by what matters
    if config.logging.log_file is not None:
        path = config.folder / config.logging.log_file
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8")
        file.setLevel(config.logging.file_level)
        line = f"%(asctime)s %(levelname)s process {world.rank}: %(message)s"
        file.setFormatter(logging.Formatter(line))
        logger.handlers.append(file)
