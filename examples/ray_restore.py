"""Restore speech over a Ray cluster: parquet or WebDataset shards in, shards out.

    python examples/ray_restore.py --input /data/noisy.parquet --output /data/restored
    python examples/ray_restore.py --input 'shards/*.tar' --output restored --column flac --gpus 1

Parquet needs a column of audio files (`bytes`), or `waveform` and `sample_rate`; other columns come
along, and `error` says what is wrong with a row. In WebDataset shards, a sample that cannot be
restored is left out, and counted.
"""

import argparse
import glob
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.audio.formats import FORMATS, FileFormat
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.commands import Parser


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--input", required=True, metavar="PATH", help="a file, a folder, or a pattern")
    add("--output", required=True, type=Path, metavar="DIR", help="gets the shards; empty or new")
    add("--ckpt-dir", metavar="DIR", help="default: the small restorer in pretrained/default")
    add("--column", default="bytes", metavar="NAME", help="of the audio files (default: bytes)")
    add("--format", choices=FORMATS, default="flac", help="of the files (default: %(default)s)")
    add(
        "--address",
        metavar="HOST:PORT",
        help="of a cluster that is there; default: RAY_ADDRESS, or this machine",
    )
    add("--workers", type=int, default=1, metavar="N", help="actors (default: %(default)s)")
    add("--gpus", type=float, default=0, metavar="N", help="of each actor (default: none)")
    add("--cpus", type=float, default=1, metavar="N", help="of each actor (default: 1)")
    add("--batch-size", type=int, default=16, metavar="N", help="rows at once (default: 16)")
    return parser.parse_args()


def main() -> int:
    """Read, restore, write."""
    arguments = parse_arguments()
    paths = sorted(glob.glob(arguments.input)) or [arguments.input]
    is_tar = paths[0].endswith(".tar")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        raise UserError(f"{arguments.output} is not empty; choose another --output")
    if is_tar and arguments.column not in FORMATS:
        raise UserError("WebDataset shards hold flac or wav: name the member by --column flac")
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: `pip install '.[ray]'`") from error
    from open_miipher.integrations.ray import RestoreBatch
    from open_miipher.restoration import DEFAULT_MODEL

    if not ray.is_initialized():
        # The nodes see this folder, or have the package installed.
        path = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}}
        ray.init(arguments.address, log_to_driver=False, runtime_env=path)
    read: Any = ray.data.read_webdataset if is_tar else ray.data.read_parquet
    dataset = read(paths, decoder=None) if is_tar else read(paths)
    restored = dataset.map_batches(
        RestoreBatch,
        fn_constructor_kwargs={
            "checkpoint": arguments.ckpt_dir or DEFAULT_MODEL,
            "file_format": FileFormat(arguments.column if is_tar else arguments.format),
            "column": arguments.column,
        },
        batch_size=arguments.batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        num_gpus=arguments.gpus,
        num_cpus=arguments.cpus,
    ).materialize()
    errors = [row["error"] for row in restored.select_columns(["error"]).iter_rows()]
    failed = [error for error in errors if error]
    for error in failed[:10]:
        print(f"failed: {error}")
    if is_tar:
        good = restored.filter(lambda row: row["error"] == "")
        files = good.drop_columns(["error", "sample_rate"])
        files.write_webdataset(str(arguments.output), encoder=None)
    else:
        restored.write_parquet(str(arguments.output))
    num_good = len(errors) - len(failed)
    print(f"{num_good} rows restored, {len(failed)} failed, in {arguments.output}")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
