"""Write a model for others: `src/export.py --ckpt-dir D --output-dir O [--format onnx]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.base.errors import UserError
from open_miipher.base.shipped import as_called
from open_miipher.commands import Parser
from open_miipher.commands.options import ask_which_checkpoint

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.checkpoint import Checkpoint

DESCRIPTION = """\
Write a trained model for others.

--format safetensors: a folder with only what restoring needs (weights, configuration, how to build
the networks, a model card), and neither optimisers nor discriminators nor paths of this machine. It
restores bit for bit as the checkpoint does: src/inference.py --ckpt-dir O, or
Restorer.from_pretrained("O"). --push-to uploads it to the hub, too.

--format onnx: O/model.onnx, which restores chunks without this program and without torch;
examples/restore_onnx.py shows how. It needs pip install '.[onnx]', and minutes.
"""
_CHUNK, _OVERLAP = 20.0, 2.0  # s, as src/inference.py has them


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--ckpt-dir",
        metavar="DIR",
        help="a checkpoint, or the output directory of its run; default: the small restorer that "
        "comes with the project",
    )
    ask_which_checkpoint(parser)
    add("--output-dir", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add(
        "--format",
        choices=["safetensors", "onnx"],
        default="safetensors",
        help="(default: %(default)s)",
    )
    add("--half", action="store_true", help="weights in float16: half the size, not bit for bit")
    add(
        "--with-encoder",
        action="store_true",
        help="with the files of the base encoder (safetensors)",
    )
    add(
        "--encoder-source",
        metavar="ID|DIR",
        help="the base encoder's id on the hub, or its folder, if it has moved since training",
    )
    add(
        "--results", type=Path, metavar="FILE", help="summary.json of src/evaluate.py, for the card"
    )
    add("--licence", metavar="ID", help="of the weights, for the card, such as mit or cc-by-4.0")
    add("--push-to", metavar="USER/NAME", help="upload to the hub, with the token in HF_TOKEN")
    add("--private", action="store_true", help="make the new repository on the hub private")
    arguments = parser.parse_args(argv)
    if arguments.format == "onnx" and (arguments.push_to or arguments.with_encoder):
        parser.error("--push-to and --with-encoder go with --format safetensors")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and say what there is now."""
    arguments = parse_arguments(argv)
    from open_miipher.base.shipped import shipped  # all this is slow
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.exporting import Contents, check_upload, export_folder, upload

    if arguments.push_to:
        check_upload(arguments.push_to)
    path = arguments.ckpt_dir or shipped("pretrained/default")
    checkpoint = Checkpoint.open(path, arguments.ckpt)
    if arguments.format == "onnx":
        written = _write_onnx(checkpoint, arguments)
        print(f"{written}: {_megabytes(written):.1f} MB; python examples/restore_onnx.py {written}")
        return 0
    contents = Contents(
        with_encoder=arguments.with_encoder,
        encoder_source=arguments.encoder_source,
        half=arguments.half,
        name=arguments.push_to,
        licence=arguments.licence,
        results=arguments.results,
    )
    folder = export_folder(checkpoint, arguments.output_dir, contents)
    use = as_called("python src/inference.py")
    print(
        f"{folder}: {_megabytes(folder):.1f} MB, of {_megabytes(checkpoint.path):.1f} MB; restore "
        f"with {use} --ckpt-dir {folder} …"
    )
    if arguments.push_to:
        print(f"uploaded: {upload(folder, arguments.push_to, arguments.private)}")
    return 0


def _write_onnx(checkpoint: "Checkpoint", arguments: argparse.Namespace) -> Path:
    from open_miipher.exporting.folder import check_new
    from open_miipher.exporting.onnx import MODEL, export_onnx
    from open_miipher.restoration import Chain, RestoreOptions

    check_new(arguments.output_dir)
    chain = Chain.from_checkpoint(checkpoint, encoder_source=arguments.encoder_source)
    grid = RestoreOptions(chunk_seconds=_CHUNK, overlap_seconds=_OVERLAP).grid(chain)
    metadata = {
        "model": chain.fingerprint,
        "input_rate": chain.input_rate,
        "input_hop": chain.input_hop,
        "output_rate": chain.output_rate,
        "output_hop": chain.output_hop,
        "needs_noise": chain.vocoder.needs_noise,
        "restores_level": chain.restores_level,
        "chunk_frames": grid.chunk_frames,
        "overlap_frames": grid.overlap_frames,
    }
    try:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{arguments.output_dir} cannot be made: {error.strerror}") from error
    written: Path = arguments.output_dir / MODEL
    export_onnx(chain.cleaner, chain.vocoder, written, metadata, arguments.half)
    return written


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
