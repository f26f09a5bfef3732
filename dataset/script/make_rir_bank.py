"""Simulate rooms ahead of training: impulse responses for the reverb degradation.

    python dataset/script/make_rir_bank.py --output-dir DIR --num-rirs 2000

Each room is a box of drawn size and decay with one source and one microphone in it (image-source
method). DIR gets rir-000000.flac … and a metadata.csv with the drawn numbers, so that it can be
given as data.train.rir_dir_list=[DIR]. Response number i depends on the options, the seed and i
alone. What small live rooms reflect more than 60 times is not simulated: there, noise goes on with
the decay. Exit status: 0 done, 2 wrong use.
"""

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np
from tqdm import tqdm

from open_miipher.audio.io import AudioWriter
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.paths import printable
from open_miipher.commands import Parser
from open_miipher.distributed import die_with_parent
from open_miipher.index import METADATA_NAME, Entry, write_index

_WALL_METRES = 0.3  # source and microphone keep at least so far from every wall
_APART_METRES = 0.5  # and from each other
_HIGHEST_ORDER = 60  # of reflections; more take minutes in small live rooms
_SEAM_SECONDS = 0.05  # that the simulated reflections and the noise after them share
_PEAK = 0.9
_MOST_DRAWS = 1000


@dataclass(frozen=True)
class Options:
    """What every worker needs; ranges are (low, high)."""

    output_dir: Path
    sample_rate: int
    seed: int
    width: tuple[float, float]
    depth: tuple[float, float]
    height: tuple[float, float]
    rt60: tuple[float, float]


@dataclass(frozen=True)
class Room:
    """A drawn room: metres, seconds of decay by 60 dB, and what gives that decay."""

    size: np.ndarray
    source: np.ndarray
    microphone: np.ndarray
    rt60: float
    absorption: float
    max_order: int


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = partial(parser.add_argument, metavar=("LOW", "HIGH"), nargs=2, type=float)
    parser.add_argument("--output-dir", type=Path, required=True, help="made if missing")
    parser.add_argument("--num-rirs", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--sample-rate", type=int, default=24000, help="Hz, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--num-workers", type=int, default=os.cpu_count() or 1, help="default: %(default)s (cores)"
    )
    add("--width", default=(2.0, 10.0), help="metres, default: 2 10")
    add("--depth", default=(2.0, 10.0), help="metres, default: 2 10")
    add("--height", default=(2.0, 5.0), help="metres, default: 2 5")
    add("--rt60", default=(0.2, 0.5), help="seconds of decay by 60 dB, default: 0.2 0.5")
    return parser.parse_args()


@exit_on_user_error
def main() -> int:
    """Make the bank."""
    arguments = _arguments()
    _check(arguments)
    import pyroomacoustics  # noqa: F401 - slow to import, so before the workers fork
    import scipy.signal  # noqa: F401

    options = Options(
        arguments.output_dir,
        arguments.sample_rate,
        arguments.seed,
        *(tuple(getattr(arguments, name)) for name in ("width", "depth", "height", "rt60")),
    )
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{printable(options.output_dir)}: {error.strerror}") from error
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(arguments.num_workers, context, die_with_parent) as pool:
            results = pool.map(partial(make, options), range(arguments.num_rirs))
            hide = not sys.stderr.isatty()
            entries = list(tqdm(results, total=arguments.num_rirs, unit="rir", disable=hide))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker was killed; give fewer --num-workers if memory is short"
        ) from error
    path = write_index(options.output_dir, entries)
    print(f"{printable(path)}: {len(entries)} impulse responses at {options.sample_rate} Hz")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if min(arguments.num_rirs, arguments.num_workers) < 1 or arguments.seed < 0:
        raise UserError("--num-rirs and --num-workers must be at least 1, --seed at least 0")
    if arguments.sample_rate < 8000:
        raise UserError(f"--sample-rate {arguments.sample_rate} must be at least 8000")
    smallest = 2 * _WALL_METRES + _APART_METRES
    for name, least in (
        ("width", smallest),
        ("depth", smallest),
        ("height", smallest),
        ("rt60", 0.05),
    ):
        low, high = getattr(arguments, name)
        if not least <= low <= high:
            raise UserError(
                f"--{name} {low:g} {high:g} must go from low to high, {least:g} at least"
            )
    if (arguments.output_dir / METADATA_NAME).exists():
        raise UserError(
            f"{printable(arguments.output_dir)} holds a {METADATA_NAME} already; give another "
            "--output-dir, or remove it"
        )


def make(options: Options, number: int) -> Entry:
    """Simulate one room and write its impulse response.

    Args:
        options: of the bank.
        number: of the response; seeds it together with the bank's seed.

    Returns:
        Its row, with the drawn numbers as extra columns.
    """
    rng = np.random.default_rng((options.seed, number))
    room = draw_room(options, rng)
    response = simulate(room, options.sample_rate, rng)
    path = options.output_dir / f"rir-{number:06d}.flac"
    with AudioWriter(path, options.sample_rate, 1, "flac", "PCM_24") as writer:
        writer.write(response[None])
    places = {"room": room.size, "source": room.source, "microphone": room.microphone}
    extra = {
        f"{name}_{axis}": f"{metres:.4f}"
        for name, place in places.items()
        for axis, metres in zip("xyz", place, strict=True)
    }
    extra["rt60"] = f"{room.rt60:.4f}"
    return Entry(path.name, options.sample_rate, len(response), 1, extra)


def draw_room(options: Options, rng: np.random.Generator) -> Room:
    """Draw a room that can have its decay: a large one cannot be as dry as a small one.

    Raises:
        UserError: the ranges leave no such room.
    """
    import pyroomacoustics

    for _ in range(_MOST_DRAWS):
        size = np.array([rng.uniform(*r) for r in (options.width, options.depth, options.height)])
        rt60 = rng.uniform(*options.rt60)
        source, microphone = rng.uniform(_WALL_METRES, size - _WALL_METRES, (2, 3))
        if np.linalg.norm(source - microphone) < _APART_METRES:
            continue
        try:
            absorption, max_order = pyroomacoustics.inverse_sabine(rt60, size)
        except ValueError:  # walls that absorb everything would still not do
            continue
        return Room(size, source, microphone, rt60, absorption, max_order)
    raise UserError("no room of that size decays that fast; widen --rt60 upwards")


def simulate(room: Room, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Compute the impulse response of a room.

    Args:
        room: the room.
        sample_rate: Hz.
        rng: of the noise that late reflections become, where there are too many to simulate.

    Returns:
        (taps,) float32 with peak 0.9, ending once it has had time to decay by 60 dB.
    """
    import pyroomacoustics

    pyroomacoustics.constants.set("num_threads", 1)  # the rooms are made in parallel already
    box = pyroomacoustics.ShoeBox(
        room.size,
        fs=sample_rate,
        materials=pyroomacoustics.Material(room.absorption),
        max_order=min(room.max_order, _HIGHEST_ORDER),
        air_absorption=True,
    )
    box.add_source(room.source)
    box.add_microphone(room.microphone)
    box.compute_rir()
    response = np.asarray(box.rir[0][0])
    seconds = np.linalg.norm(room.source - room.microphone) / box.c + room.rt60
    num_samples = round(seconds * sample_rate) + 1
    if room.max_order > _HIGHEST_ORDER:
        # How far the nearest image left out is: the least |(i·width, j·depth, k·height)| of all
        # with i + j + k = order.
        metres = _HIGHEST_ORDER / np.linalg.norm(1 / room.size)
        complete = round(metres / box.c * sample_rate)
        if complete < num_samples:
            response = with_late_tail(response[:complete], num_samples, room.rt60, sample_rate, rng)
    response = response[:num_samples]
    return (response * _PEAK / np.abs(response).max()).astype(np.float32)


def with_late_tail(
    early: np.ndarray,
    num_samples: int,
    rt60: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Let a response go on as decaying noise of the level and colour with which it ends.

    Late reflections are so many that they are noise to the ear (Lehmann and Johansson, "Diffuse
    reverberation model for efficient image-source simulation", 2010).

    Args:
        early: (taps,) complete up to its end.
        num_samples: taps that are wanted.
        rt60: seconds of decay by 60 dB.
        sample_rate: Hz.
        rng: of the noise.

    Returns:
        (num_samples,).
    """
    from scipy.signal import fftconvolve

    seam = min(round(_SEAM_SECONDS * sample_rate), len(early))
    end = early[len(early) - seam :]
    times = (np.arange(num_samples - len(early) + seam) - seam / 2) / sample_rate
    noise = fftconvolve(rng.standard_normal(len(times) + seam - 1), end, mode="valid")
    level = np.sqrt(np.mean(end**2) / np.mean(noise**2))
    late = level * noise * 10 ** (-3 * times / rt60)
    phase = 0.5 * np.pi * (np.arange(seam) + 0.5) / seam
    late[:seam] = np.cos(phase) * end + np.sin(phase) * late[:seam]  # powers add up, not waves
    return np.concatenate([early[: len(early) - seam], late])


if __name__ == "__main__":
    sys.exit(main())
