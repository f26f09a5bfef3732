"""What a corpus run's plan takes of memory: every rank but the first gets its own share only.

    torchrun --standalone --nproc_per_node 4 benchmarks/corpus_plan.py --num-items 18000000

Rank 0 makes so many items as restoring a directory finds them, and shares them out as a run does,
a million at a time (a run has all at once: 0.8 kB each, on rank 0 alone); then every rank takes its
items one after the other. Prints what each rank's memory rose to.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from processes import peak_bytes

from open_miipher.audio.io import AudioInfo
from open_miipher.corpus.recordings import Segment
from open_miipher.corpus.run import Item
from open_miipher.distributed import StopSignal, share_out, start

SLICE = 1_000_000
INFO = AudioInfo(24000, 240000, 1, "WAV", "PCM_16")


def make(number: int) -> Item:
    """Make the item of a file such as corpora of found speech hold."""
    name = f"part{number // 100_000:04d}/speaker{number // 250:07d}/utterance-{number:09d}"
    num_frames = 24000 * (1 + number * 7919 % 29) + number % 24000
    stamp = [num_frames + 4711, 1_700_000_000_000_000_000 + number * 1_234_567]
    segment = Segment(f"/data/corpora/found/{name}.flac", info=INFO, num_frames=num_frames)
    return Item(f"{name}.flac", f"{name}.wav", num_frames / 24000, stamp, segment)


def main() -> None:
    """Share out, take all, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-items", type=int, default=1_000_000, help="default: %(default)s")
    num_items = parser.parse_args().num_items
    world = start("cpu", timeout_minutes=60)
    before = peak_bytes()
    shares = []
    for first in range(0, num_items, SLICE):
        numbers = range(first, min(first + SLICE, num_items))
        items = [make(number) for number in numbers] if world.is_main else []
        shares.append(share_out(items, world, StopSignal()))
    shared, count = peak_bytes(), sum(share.num_items for share in shares)
    for share in shares:
        for item in share:
            share.end(item.id)
    said = world.gather((count, before, shared, peak_bytes()))
    if world.is_main:
        print(f"{num_items:,} items, {world.size} ranks\n")
        print("| rank | items | GiB before | shared out | all taken |")
        print("|---|---|---|---|---|")
        for rank, (count, *peaks) in enumerate(said):
            print(f"| {rank} | {count:,} | {' | '.join(f'{peak / 2**30:.2f}' for peak in peaks)} |")
    world.close()


if __name__ == "__main__":
    main()
