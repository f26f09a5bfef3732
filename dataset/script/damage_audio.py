"""Write damaged copies of the clean speech in an indexed directory, whole files, for experiments.

    python dataset/script/damage_audio.py --input-dir CLEAN --output-dir DAMAGED
        [--seed 0] [data.train.noise_dir_list=[NOISE]] [data.degradation.stages.…=…]

Takes the overrides of src/train.py for the damage. File a/b.flac becomes a/b.wav of 16 bits at
data.sample_rate, with an index that has the columns of the first one (text, speaker …). What is
drawn for a file depends on the seed and its place in the index. Exit status: 0 done, 2 wrong use.
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.base.errors import UserError, exit_on_user_error, report
from open_miipher.base.paths import printable
from open_miipher.commands import Parser

_DEFAULT_MODEL = "model=small_restorer"


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--input-dir", type=Path, required=True, help="indexed clean speech")
    parser.add_argument("--output-dir", type=Path, required=True, help="made; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help=f"as for src/train.py; {_DEFAULT_MODEL} if no model is given",
    )
    return parser.parse_intermixed_args()


@exit_on_user_error
def main() -> int:
    """Damage every file and write the index."""
    arguments = _arguments()
    import numpy as np  # all this is slow to import

    from open_miipher.audio.writing import AudioWriter
    from open_miipher.base.registry import from_mapping
    from open_miipher.config import compose_plain
    from open_miipher.data import DataConfig
    from open_miipher.data.building import source_degradation
    from open_miipher.degradation import Trace
    from open_miipher.evaluation.metrics import read_mono
    from open_miipher.index import read_index, write_index

    output_dir = arguments.output_dir
    if output_dir.exists():
        raise UserError(f"--output-dir {printable(output_dir)} is there: choose another one")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed} must be 0 or more")
    overrides = arguments.overrides
    if not any(override.startswith("model=") for override in overrides):
        overrides = [_DEFAULT_MODEL, *overrides]
    data = from_mapping(DataConfig, compose_plain(overrides)["data"], "data")
    rate = data.sample_rate
    chain = source_degradation(data.degradation, data.train, "data.train", rate)
    index = read_index(arguments.input_dir)
    names = [str(PurePosixPath(entry.file_path).with_suffix(".wav")) for entry in index]
    times = Counter(names)
    report(
        [
            f"{printable(entry.file_path)} and another file would both become {printable(name)}: "
            "take one of them out of the index, or rename it"
            for entry, name in zip(index, names, strict=True)
            if entry.file_path != name and times[name] > 1
        ]
    )
    entries = []
    for number, (entry, name) in enumerate(zip(index, names, strict=True)):
        clean, _ = read_mono(arguments.input_dir / entry.file_path, rate)
        trace = Trace(clean)
        damaged = chain(clean, np.random.default_rng((arguments.seed, number)), trace)
        for failure in trace.failures:
            raise UserError(f"{printable(entry.file_path)}: {failure}")
        path = output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with AudioWriter(path, rate, 1, subtype="PCM_16") as writer:
            writer.write(damaged[None] / max(1.0, float(np.abs(damaged).max()) / 0.99))
        own = replace(entry, file_path=name, sample_rate=rate)
        entries.append(replace(own, num_frames=len(damaged), num_channels=1))
    print(f"{write_index(output_dir, entries)}: {len(entries)} damaged files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
