"""Open the page to try a model on, in a browser."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_miipher.commands import Parser

DESCRIPTION = """\
Open a page to try a model on: drop or record speech, restore it on this machine, hear it before and
after, see both spectrograms, download it. Only this machine can open the page, unless --host says
otherwise: then everyone who reaches that address may use it, and nobody is asked for a password.

Needs gradio: pip install '.[app]'. Ctrl-C ends it and removes what visitors sent.
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--ckpt-dir",
        nargs="+",
        default=[],
        metavar="DIR",
        help="checkpoints of whole chains to choose from besides the default model, the first of "
        "them chosen at the start",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="name or address to listen at; 0.0.0.0 is every one of this machine (default: "
        "%(default)s)",
    )
    add("--port", type=int, default=7860, help="to listen at (default: %(default)s)")
    add("--device", metavar="cpu|cuda", help="default: a GPU where there is one")
    add(
        "--max-minutes",
        type=float,
        default=10.0,
        metavar="M",
        help="of each file (default: %(default)g)",
    )
    add(
        "--max-megabytes",
        type=float,
        default=100.0,
        metavar="MB",
        help="of each file (default: %(default)g)",
    )
    add(
        "--max-files",
        type=int,
        default=10,
        metavar="N",
        help="that a visitor restores at once (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, load the models, show the page until a signal ends it."""
    arguments = parse_arguments(argv)
    from open_miipher.app import Limits, check_free, serve
    from open_miipher.base.errors import UserError
    from open_miipher.base.paths import printable
    from open_miipher.restoration import Restorer

    limits = Limits(arguments.max_minutes, arguments.max_megabytes, arguments.max_files)
    if not 1 <= arguments.port < 1 << 16:
        raise UserError(f"port {arguments.port}: choose 1 to 65535")
    check_free(arguments.host, arguments.port)
    restorers = {
        printable(Path(given)): Restorer.from_checkpoint(given, device=arguments.device)
        for given in arguments.ckpt_dir
    }
    restorers["default"] = Restorer.from_checkpoint(device=arguments.device)
    for name, restorer in restorers.items():
        print(f"{name}: {restorer}", flush=True)
    serve(restorers, limits, arguments.host, arguments.port)
    return 0
