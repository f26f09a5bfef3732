"""Train one stage: `torchrun --nproc_per_node N src/train.py model=… data.train.dir_list=[…] …`."""

import argparse
from collections.abc import Sequence

from open_miipher.base.shipped import shipped
from open_miipher.commands import Parser
from open_miipher.commands.options import ask_for_overrides, print_config

_EXAMPLES = """\
examples:
  python src/train.py model=demo_feature_cleaner data.train.dir_list=[dataset/demo/speech/train]
  torchrun --standalone --nproc_per_node 8 src/train.py model=miipher2_feature_cleaner \\
      'data.train.dir_list=[/data/speech]' 'data.train.noise_dir_list=[/data/noise]'
  torchrun --standalone --nproc_per_node 8 src/train.py trainer.ckpt_dir=OUTPUT_DIR/ckpt/latest

With trainer.output_dir=… trainer.ckpt_dir=auto, the same command starts the run and, when it is
given again, resumes it.

exit status: 0 the run is done; 2 wrong use, or nothing more can be read or written; 4 a signal
ended it early, and all is saved (under torchrun 0 and the file OUTPUT_DIR/REQUEUE).
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, without slow imports."""
    folder = shipped("config/model")
    models = sorted(path.stem for path in folder.glob("*.yaml"))
    parser = Parser(
        description="Train one stage, or resume one with trainer.ckpt_dir=….",
        epilog=f"models: {', '.join(models)}\n\n{_EXAMPLES}",
    )
    ask_for_overrides(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compose and check the configuration, and train; or only print it."""
    arguments = parse_arguments(argv)
    from open_miipher.base.errors import STOPPED_STATUS
    from open_miipher.config import compose_run
    from open_miipher.distributed import alike_here, contact, is_under_torchrun, start
    from open_miipher.training import prepare

    run = alike_here(lambda: compose_run(arguments.overrides))
    if arguments.cfg:
        print_config(run.plain)
        return 0
    with contact():
        world = start(run.trainer.device, run.trainer.timeout_minutes)
        is_done = prepare(run, world).run()
        world.close()
    # A launcher of ranks would take another status for a failure, though all is saved.
    is_alone = world.size == 1 and not is_under_torchrun()
    return STOPPED_STATUS if is_alone and not is_done else 0
