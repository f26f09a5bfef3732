"""Run as one of several ranks: make tokens in parts of three utterances.

python tokens.py OUT_DIR SPOKEN [PAUSE]: a rank waits PAUSE seconds before each part, and leaves a
file of its name for each part that it makes in OUT_DIR.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_tts import overrides

from open_miipher.config import compose_run
from open_miipher.data import token_store
from open_miipher.distributed import start


def main() -> None:
    out_dir, spoken = Path(sys.argv[1]), Path(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    token_store._PART = 3
    world = start("cpu")
    make_part = token_store.TokenJob.make_part

    def told(job: token_store.TokenJob, part: int) -> None:
        time.sleep(pause)
        make_part(job, part)
        (out_dir / f"rank-{world.rank}-made-{job.copies}-{part}").touch()

    token_store.TokenJob.make_part = told
    run = compose_run(overrides(spoken))
    run.data.make(out_dir, world, print)
    world.close()


if __name__ == "__main__":  # loader workers may be spawned
    main()
