"""What container/test.sh asks of the results, with the image's packages: one question a call.

python container/check_run.py steps RUN_DIR NUM_STEPS     each step logged once, losses finite
python container/check_run.py same RUN_DIR RUN_DIR        the same losses in both
python container/check_run.py restored IN_DIR OUT_DIR     every input restored, and as long
"""

import json
import math
import sys
from pathlib import Path

import soundfile

SAMPLE_RATE_OUT = 24_000  # Hz, of the demo's chain


def losses(run: Path) -> dict[int, float]:
    """Return the logged loss of each training step; a step logged twice is an error."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    found = {row["step"]: row["loss"] for row in rows}
    assert len(found) == len(rows), f"{run}: a step stands there twice"
    assert all(loss is not None and math.isfinite(loss) for loss in found.values()), found
    return found


def steps(run: str, num_steps: str) -> str:
    """Check that a run logged every step up to its last."""
    found = losses(Path(run))
    assert list(found) == list(range(1, int(num_steps) + 1)), f"{run}: steps {list(found)}"
    return f"{num_steps} steps, loss {found[1]:.3f} to {found[int(num_steps)]:.3f}"


def same(one: str, other: str) -> str:
    """Check that two runs have the same losses, bit for bit."""
    first, second = losses(Path(one)), losses(Path(other))
    assert first == second, f"{first} is not {second}"
    return f"the same {len(first)} losses"


def restored(inputs: str, outputs: str) -> str:
    """Check that each input has an output of round-half-up(frames * rate out / rate in) frames."""
    lines = (Path(outputs) / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    listed = {row["input"]: row for row in rows}
    files = sorted(path for path in Path(inputs).rglob("*") if path.suffix in (".flac", ".wav"))
    assert files, f"nothing to restore in {inputs}"
    assert len(listed) == len(rows) == len(files), f"{len(rows)} rows of {len(files)} files"
    for path in files:
        row = listed[str(path.relative_to(inputs))]
        assert row["error"] is None, row
        before, after = soundfile.info(path), soundfile.info(Path(outputs) / row["output"])
        assert after.samplerate == SAMPLE_RATE_OUT, after
        frames = math.floor(before.frames * SAMPLE_RATE_OUT / before.samplerate + 0.5)
        assert after.frames == frames, f"{path}: {after.frames} frames, not {frames}"
    return f"{len(files)} files restored, each as long as its input"


if __name__ == "__main__":
    print({"steps": steps, "same": same, "restored": restored}[sys.argv[1]](*sys.argv[2:]))
