"""Write pairs of clean and damaged speech as training would see them, to listen to and look at.

    python dataset/script/preview_degradations.py --output-dir DIR data.train.dir_list=[SPEECH] …

Takes the overrides of src/train.py. Each pair gets two float WAV files, a picture of both
spectrograms and a JSON file with its seed, epoch, index and the drawn degradations. A training
sample that looks wrong is made again, exactly, from those three numbers and the run's overrides:

    python dataset/script/preview_degradations.py --output-dir DIR --seed 0 --epoch 3 --index 17 …

Exit status: 0 done, 2 wrong use.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.paths import printable
from open_miipher.commands import Parser

if TYPE_CHECKING:
    from open_miipher.data import PairSample

_DEFAULT_MODEL = "model=miipher2_feature_cleaner"


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="made if missing")
    parser.add_argument("--num-pairs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: trainer.seed")
    parser.add_argument("--epoch", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--index", type=int, help="make this one sample only")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help=f"as for src/train.py; {_DEFAULT_MODEL} if no model is given",
    )
    return parser.parse_intermixed_args()


@exit_on_user_error
def main() -> int:
    """Make the pairs and tell what was drawn."""
    arguments = _arguments()
    from open_miipher.base.registry import from_mapping  # all this is slow to import
    from open_miipher.config import compose_plain
    from open_miipher.data import DataConfig, build_train_data

    overrides = arguments.overrides
    if not any(override.startswith("model=") for override in overrides):
        overrides = [_DEFAULT_MODEL, *overrides]
    config = compose_plain(overrides)
    seed = config["trainer"]["seed"] if arguments.seed is None else arguments.seed
    dataset = build_train_data(from_mapping(DataConfig, config["data"], "data"), seed)
    if arguments.index is None:
        first = arguments.epoch * dataset.num_items
        wanted = [dataset.order.at(first + k) for k in range(arguments.num_pairs)]
    else:
        wanted = [(arguments.epoch, arguments.index)]
    if min(seed, arguments.epoch, *(index for _, index in wanted)) < 0:
        raise UserError("--seed, --epoch and --index must not be negative")
    if arguments.index is not None and arguments.index >= dataset.num_items:
        raise UserError(f"--index {arguments.index} is not below {dataset.num_items} files")
    try:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        for epoch, index in wanted:
            sample = dataset.sample(epoch, index)
            numbers = {"seed": seed, "epoch": epoch, "index": index}
            print(_write(arguments.output_dir, sample, numbers, dataset.sample_rate), flush=True)
    except OSError as error:
        raise UserError(f"{printable(arguments.output_dir)}: {error.strerror}") from error
    return 0


def _write(
    output_dir: Path, sample: "PairSample", numbers: dict[str, int], sample_rate: int
) -> str:
    """Write the files of one pair; returns a line about it."""
    from open_miipher.audio.io import AudioWriter
    from open_miipher.evaluation.spectrograms import Panel, save_spectrograms

    stem = "seed{seed}-epoch{epoch}-index{index:05d}".format(**numbers)
    panels = []
    for side, waveform in (("clean", sample.clean), ("damaged", sample.damaged)):
        path = output_dir / f"{stem}-{side}.wav"
        with AudioWriter(path, sample_rate, 1, subtype="FLOAT") as writer:
            writer.write(waveform[None])
        panels.append(Panel(side, waveform, sample_rate))
    panels[1].title = _describe(sample.drawn, sources=False)
    save_spectrograms(output_dir / f"{stem}.png", [panels])
    about = {
        **numbers,
        "name": sample.name,
        "start_seconds": sample.start_seconds,
        "drawn": sample.drawn,
        "failures": sample.failures + sample.broken,
    }
    (output_dir / f"{stem}.json").write_text(json.dumps(about, indent=2, ensure_ascii=False))
    failed = f"; failed: {', '.join(about['failures'])}" if about["failures"] else ""
    place = f"{sample.name} from {sample.start_seconds:.2f} s"
    return f"{stem}: {place}: {_describe(sample.drawn)}{failed}"


def _describe(drawn: list[dict[str, Any]], sources: bool = True) -> str:
    """One line about the stages: their names, numbers and, if wanted, recordings."""
    stages = []
    for stage in drawn:
        shown = {key: value for key, value in stage.items() if key != "name"}
        if not sources:
            shown.pop("source", None)
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in shown.values()]
        stages.append(" ".join([stage["name"], *([f"({', '.join(values)})"] if values else [])]))
    return " → ".join(stages) or "untouched"


if __name__ == "__main__":
    sys.exit(main())
