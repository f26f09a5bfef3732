"""A small evaluation of two systems, with sounds, for the report and its pages."""

import os
from pathlib import Path

import numpy as np
from speech import voice, write_wav

from open_miipher.evaluation.results import INPUT, Column, Evaluation, Row, Sounds

RATE = 16000
OLD, NEW = "old <b>model</b>", "new & better"
COLUMNS = [
    Column("level_db", "level", "dB"),
    Column("estoi", "ESTOI", "", True),
    Column("distance", "distance", "dB", False),
]
NAMES = [
    'say "hi" & <script>window.harmed = 1</script>.wav',
    "пример ☃ 語.wav",
    "line\nbreak \u2028.wav",
    "sub/100% #1? 'x'.wav",
    os.fsdecode(b"not utf-8 \xff.wav"),
    "the best.wav",
]


def make_evaluation(folder: Path, seconds: float = 2.0) -> Evaluation:
    """Write sounds of NAMES; ESTOI rises from file to file, and the new system is 0.1 better."""
    rows: list[Row] = []
    sounds = {}
    for number, name in enumerate(NAMES):
        clean = voice(number, seconds, RATE)
        noise = np.random.default_rng(number).standard_normal(len(clean)).astype(np.float32)
        paths = {kind: folder / kind / name for kind in ("input", "old", "new", "clean")}
        for kind, amount in (("input", 0.05), ("old", 0.01), ("new", 0.001), ("clean", 0.0)):
            write_wav(paths[kind], clean + amount * noise, RATE)
        before = {INPUT + "estoi": 0.2, INPUT + "level_db": -20.0}
        for system, better in ((OLD, 0.0), (NEW, 0.1)):
            values = {"level_db": -20.0 - number, "estoi": 0.3 + 0.1 * number + better}
            values["distance"] = 9.0 - number
            of: dict[str, str | float] = {"file": name, "system": system, "seconds": seconds}
            rows.append({**of, **values, **before, "problems": "it clips" if number == 3 else ""})
        restored = {OLD: paths["old"], NEW: paths["new"]}
        sounds[name] = Sounds(restored, paths["clean"], paths["input"])
    return Evaluation([OLD, NEW], COLUMNS, rows, sounds, {"nisqa": "no <weights>"})
