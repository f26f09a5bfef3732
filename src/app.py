"""`open-miipher app`, from a checkout (-h explains it)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from open_miipher.commands import run

if __name__ == "__main__":
    run("app")
