"""`src/synthesize.py` with the stand-in: driver.py FOLDER SECONDS key=value …"""

import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "src")]


def main() -> int:
    from stand_in import Load

    from open_miipher.codec import audio_tokenizer
    from open_miipher.commands import synthesize
    from open_miipher.corpus.synthesising import task

    folder, seconds = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
    task.Synthesise = partial(task.Synthesise, load=Load(folder, seconds))
    task.fingerprint = lambda *_: "stand-in"
    codec = type("Codec", (), {"fingerprint": "counts"})
    audio_tokenizer.AudioTokenizer.from_config = lambda *_: codec
    return synthesize.main()


if __name__ == "__main__":
    from open_miipher.distributed import run_as_rank

    run_as_rank(main)
