"""How many files a reader has to open to follow one restored file to its row in the ledger."""

import json
import sys
import threading
from pathlib import Path
from types import FrameType

import numpy as np
import soundfile

from open_miipher.base.rows import RowWriter
from open_miipher.commands import restore
from open_miipher.distributed import Share

ROOT = Path(__file__).resolve().parents[2] / "src"
NETWORKS = ("encoders", "cleaners", "vocoders", "layers")

# Four came with what they do: trust in the output, which is two files, the transforms that ONNX can
# hold, too, and what holds for all that is called inside a block, which the compiler can follow.
CORPUS_BOUND, BOUND = 2, 25


def test_one_restored_file_crosses_few_files(chain, tmp_path, monkeypatch, capsys) -> None:
    """From the item's hand-out to its row; bodies of modules and the networks are left aside."""
    (tmp_path / "in").mkdir()
    waveform = 0.1 * np.random.default_rng(0).standard_normal(48000)
    soundfile.write(tmp_path / "in/a.wav", waveform, 24000)
    entered: set[str] = set()
    state = {"is_on": False}
    hand_out, write = Share.__next__, RowWriter.write

    def handed_out(share):
        state["is_on"] = True
        return hand_out(share)

    def written(writer, rows):
        write(writer, rows)
        state["is_on"] = state["is_on"] and "rank-" not in writer._file.name

    def profile(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if state["is_on"] and event == "call" and code.co_name != "<module>":
            path = Path(code.co_filename)
            if path.is_relative_to(ROOT):
                entered.add(path.relative_to(ROOT).as_posix())

    monkeypatch.setattr(Share, "__next__", handed_out)
    monkeypatch.setattr(RowWriter, "write", written)
    words = ["--ckpt-dir", chain, "--input-audio-dir", tmp_path / "in", "--device", "cpu"]
    words += ["--output-dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, words)])
    before = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        code = restore.main()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    assert code == 0
    row = json.loads((tmp_path / "out/.ledger/rank-00000.jsonl").read_text())
    assert row["error"] is None
    parts = {path: path.removeprefix("open_miipher/").split("/")[0] for path in entered}
    own = sorted(path for path, part in parts.items() if part not in NETWORKS)
    with capsys.disabled():
        print(f"\n{len(own)} files:", *own, sep="\n  ")
    assert "open_miipher/corpus/writers.py" in own  # that the trace saw threads and generators
    assert "open_miipher/restoration/restorer.py" in own
    assert sum("/corpus/" in path for path in own) <= CORPUS_BOUND
    assert len(own) <= BOUND
