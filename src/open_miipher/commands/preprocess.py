"""Make shards of degraded pairs: `torchrun src/preprocess.py data=… preprocess.output_root=… …`."""

import argparse
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.commands import Parser
from open_miipher.commands.options import ask_for_overrides, print_config
from open_miipher.commands.runs import as_rank, say_how_it_ended

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.corpus.preprocessing.config import Preprocessing
    from open_miipher.corpus.preprocessing.task import Preprocess
    from open_miipher.distributed import World

DESCRIPTION = """\
Make shards of degraded pairs from clean speech, ahead of training.

Clean speech comes from indexed directories (data.train.dir_list) and from tar files of recordings
(data.train.urls), on disks or in object storage. Every file gives a random crop of at most 20 s,
which is damaged by the chain in config/data/webdataset_preprocess_24k.yaml; crops are joined to
samples of exactly 20 s. Shards go to OUTPUT_ROOT/WRITER_NAME/train/JOB_ID, those of data.test.* to
…/val/JOB_ID, with a summary.json. Each sample holds

  input_wav.npy, noisy_input_wav.npy   clean and damaged speech, int16 (or .flac)
  sr.index                             sample rate in Hz, as text
  names.json                           the crops in order: file, start in it, length
  degradations.json                    for each crop, what damaged it
  ssl_inputs.npy, noisy_ssl_inputs.npy with preprocess.ssl_inputs=true: w2v-BERT's input features

Killed at any instant and started again, with other numbers of processes and writers too, the
command goes on with what is left, and the shards come out the same, byte for byte. Inputs that
changed are made again. An input that is damaged in part gives what can be read of it, is named at
the end, and is not tried again until it changes (src/status.py FOLDER --retry-failed).
"""

EXAMPLES = """\
exit status: 0 all is made, but for preprocess.max_failures; 2 wrong use, or nothing more can be
written; 3 more inputs could not be read in full; 4 a signal ended the run early, and the same
command goes on. torchrun makes 1 of all but 0: python src/status.py FOLDER --exit-status has it.

examples:
  python src/preprocess.py data=webdataset_preprocess_24k preprocess.output_root=shards \\
      preprocess.writer_name=demo 'data.train.dir_list=[dataset/demo/speech/train]' \\
      'data.test.dir_list=[dataset/demo/speech/test]'
  torchrun --standalone --nproc_per_node 1 src/preprocess.py data=webdataset_preprocess_48k \\
      preprocess.output_root=/data/shards preprocess.writer_name=studio preprocess.num_writers=32 \\
      'data.train.urls=["/data/raw/studio-{000..099}.tar"]' 'data.train.rir_dir_list=[/data/rir]' \\
      'data.train.noise_dir_list=[/data/noise]'
  python src/preprocess.py data=webdataset_preprocess_48k preprocess.output_root=/data/shards \\
      preprocess.writer_name=studio 'data.train.urls=["s3://bucket/raw/"]' \\
      preprocess.num_shards=64 preprocess.shard_id=$SLURM_ARRAY_TASK_ID
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION, epilog=EXAMPLES)
    ask_for_overrides(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compose, check, make shards, sum up."""
    arguments = parse_arguments(argv)
    from open_miipher.config import compose_preprocessing
    from open_miipher.distributed import alike_here

    config = alike_here(lambda: compose_preprocessing(arguments.overrides))
    if arguments.cfg:
        print_config(config.plain)
        return 0
    return as_rank(lambda world: _preprocess(config, world), "cpu", "fewer preprocess.num_writers")


def _preprocess(config: "Preprocessing", world: "World") -> int:
    """Build the tasks of the splits, and make one after the other."""
    from open_miipher.corpus.pool import Pool
    from open_miipher.corpus.preprocessing.task import build_tasks

    with Pool(config.options.num_writers) as pool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            tasks = world.agree(lambda: build_tasks(config, pool))
        for warning in caught if world.is_main else []:
            print(f"warning: {warning.message}", flush=True)
        return _run(tasks, config, world)


def _run(tasks: "dict[Path, Preprocess]", config: "Preprocessing", world: "World") -> int:
    from open_miipher.corpus.run import run

    codes, options = [], config.options
    array_task = options.array_task
    world.on_main(lambda: mark(config, False))
    world.on_main(lambda: check(tasks.values()))
    for folder, task in tasks.items():
        summary = run(task, folder, world, options.overwrite, array_task, allowed=options.allowed)
        codes.append(summary.exit_code)
        if world.is_main:
            say_how_it_ended(summary, f"{folder}: {summary.sentence('done')}", folder)
        if summary.stopped:
            if world.is_main:
                mark(config, True)
            break
    return max(codes)


def check(tasks: "Iterable[Preprocess]") -> None:
    """See that the inputs of all splits are there, before any work and before any is forgotten."""
    for task in tasks:
        task.inputs.ids()


def mark(config: "Preprocessing", requeue: bool) -> None:
    """Leave, or remove, the file that job scripts look for: one for both splits."""
    from open_miipher.distributed import mark_requeue

    options = config.options
    folder = options.folder / ".jobs" / str(options.job_id)
    folder = folder if options.array_task is None else folder / options.array_task.folder
    folder.mkdir(parents=True, exist_ok=True)
    mark_requeue(folder, requeue)
