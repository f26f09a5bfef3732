"""Run as one of several ranks: train with the throw-away recipes.

python run.py CONFIG_DIR RUNS.json, the runs being lists of overrides, one after the other.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

from recipes import register

from open_miipher import config
from open_miipher.distributed import start
from open_miipher.training import prepare


def main() -> None:
    register()
    config.CONFIG_DIR = Path(sys.argv[1])
    world = start("cpu")
    for overrides in json.loads(Path(sys.argv[2]).read_text()):
        prepare(config.compose_run(overrides), world).run()
    world.close()


if __name__ == "__main__":  # loader workers may be spawned
    main()
