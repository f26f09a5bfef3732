"""Trust in the manifest of a run; inputs that are kept; the least trusted, listed."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech import voice

sys.path.insert(0, str(Path(__file__).resolve().parent))
from packed import decode, listed, pack, unpack

from open_miipher.base.errors import UserError
from open_miipher.commands import status
from open_miipher.corpus.recordings import Manifest
from open_miipher.corpus.run import run
from open_miipher.shards import Sample

RATE = 8000
SPEECH = {f"{seconds}.wav": voice(seconds, float(seconds), RATE) for seconds in (1, 2, 3)}


@pytest.fixture
def task(make_task, monkeypatch):
    """`task(min_trust=0.6)`: restores the first second and loses the rest."""

    def loses_the_rest(waveform, *_):
        made = waveform.clone()
        made[:, RATE:] = 0
        return made

    def make(**options):
        made = make_task(chunk_seconds=20.0, **options)
        monkeypatch.setattr(made._setting.restorer.model, "restore", loses_the_rest)
        return made

    return make


@pytest.fixture
def speech(source: Path) -> Path:
    for name, waveform in SPEECH.items():
        soundfile.write(source / name, waveform, RATE)
    return source


def test_the_manifest_says_how_far_each_file_is_trusted_and_why(speech, out, task, alone) -> None:
    summary = run(task(trust=True), out, alone)
    rows = {row["input"]: row for row in listed(out)}
    assert rows["1.wav"]["trust"] > 0.99
    assert rows["1.wav"]["trust_reason"] is None
    for name in ("2.wav", "3.wav"):
        assert rows[name]["trust"] < 0.5
        assert "is gone" in rows[name]["trust_reason"]
    assert not any(row["kept_input"] for row in rows.values())
    assert summary.num_kept == 0


def test_files_trusted_too_little_are_the_input(speech, out, task, alone) -> None:
    summary = run(task(min_trust=0.6, sample_rate=16000, format="flac"), out, alone)
    assert (summary.num_done, summary.num_kept) == (3, 2)
    for row in listed(out):
        assert row["kept_input"] == (row["input"] != "1.wav")
        kept, rate = soundfile.read(out / row["output"])
        assert (rate, len(kept)) == (16000, 2 * len(SPEECH[row["input"]]))
        np.testing.assert_allclose(kept[::2], SPEECH[row["input"]], atol=0.02)
        assert row["output_level_db"] == pytest.approx(row["input_level_db"], abs=0.1)
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


def test_samples_of_shards_are_kept_too(source, out, make, alone, monkeypatch) -> None:
    samples = []
    for name, waveform in SPEECH.items():
        soundfile.write(file := io.BytesIO(), waveform, RATE, format="flac")
        samples.append(Sample(name[0], {"flac": file.getvalue(), "txt": b"words"}))
    pack(source / "a.tar", samples)
    shards = make(min_trust=0.6, chunk_seconds=20.0)
    model = shards._setting.restorer.model
    monkeypatch.setattr(model, "restore", lambda waveform, *_: 0 * waveform)
    summary = run(shards, out, alone)
    assert (summary.num_done, summary.num_kept) == (1, 3)
    for sample, waveform in zip(unpack(out / "a.tar"), SPEECH.values(), strict=True):
        np.testing.assert_allclose(decode(sample.members["wav"])[0], waveform, atol=1e-3)
    assert all(row["kept_input"] for row in listed(out))


def test_the_least_trusted_are_listed(speech, out, task, alone, capsys) -> None:
    run(task(min_trust=0.6), out, alone)
    capsys.readouterr()
    assert status.main([str(out), "--worst", "2"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert sorted(line[1] for line in lines) == ["2.wav", "3.wav"]
    assert float(lines[0][0]) <= float(lines[1][0]) < 0.6
    assert all(line[2].endswith("is gone; the input was kept") for line in lines)
    assert status.main([str(out), "--worst", "20", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["trust"] for row in rows] == sorted(row["trust"] for row in rows)
    assert len(rows) == 3


def test_a_run_without_trust_has_no_worst_files(speech, out, make_task, alone) -> None:
    run(make_task(), out, alone)
    assert "trust" not in listed(out)[0]
    with pytest.raises(UserError, match="restore with --trust"):
        status.main([str(out), "--worst", "2"])


def test_measuring_trust_makes_no_other_run_and_keeping_inputs_does(
    speech, out, task, alone
) -> None:
    run(task(), out, alone)
    assert run(task(trust=True), out, alone).num_done == 0
    with pytest.raises(UserError, match=r"min_trust was None and is 0\.6"):
        run(task(min_trust=0.6), out, alone)


def test_the_trust_of_an_earlier_run_is_not_passed_on(
    speech, out, make_task, alone, tmp_path
) -> None:
    line = {"audio_filepath": "1.wav", "trust": 0.1, "trust_reason": "old", "kept_input": True}
    (speech / "m.jsonl").write_text(json.dumps({**line, "speaker": "anna"}) + "\n")
    run(make_task(recordings=Manifest(speech / "m.jsonl")), out, alone)
    (row,) = listed(out)
    assert row["speaker"] == "anna"
    assert not {"trust", "trust_reason", "kept_input"} & row.keys()
