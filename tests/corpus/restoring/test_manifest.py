"""A manifest in JSON lines: files and segments in, files out; dead lines are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.audio.resample import num_output_frames
from open_miipher.base.errors import UserError
from open_miipher.corpus.recordings import Manifest
from open_miipher.corpus.run import run
from open_miipher.corpus.tars import Groups
from open_miipher.shards import read_samples


def write_lines(path: Path, *lines: dict | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def listed(out: Path) -> dict[str, dict]:
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {row["input"]: row for row in rows}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def make(make_task, tmp_path: Path):
    def make(*lines: dict | str, **options):
        return make_task(
            recordings=Manifest(write_lines(tmp_path / "in/m.jsonl", *lines)), **options
        )

    return make


def test_segments_have_the_exact_samples_and_lengths(tmp_path, out, write_audio, make, alone):
    waveform = write_audio(tmp_path / "in/a.wav", seconds=2.0, subtype="FLOAT")[:, 0]
    spans = [(0.0, 0.5), (0.5, 0.333), (1.2345, 0.00013), (1.9, None), (0, 1.99999)]
    lines = [{"audio_filepath": "a.wav", "offset": o, "duration": d} for o, d in spans]
    task = make(*lines, sample_rate=11025, level="none")
    assert run(task, out, alone).num_done == len(spans)
    rows = list(listed(out).values())
    assert len(rows) == len(spans)
    for offset, duration in spans:
        frames = int((2.0 - offset if duration is None else duration) * 8000 + 0.5)
        row = next(
            r for r in rows if (r["input_offset"], r["input_num_frames"]) == (offset, frames)
        )
        info = soundfile.info(out / row["output"])
        assert info.frames == row["num_frames"] == num_output_frames(frames, 8000, 11025)
        assert row["input_filepath"] == "a.wav"
    run(make(*lines, subtype="FLOAT", level="none"), out, alone, overwrite=True)
    restored, _ = soundfile.read(out / "a@0.5+0.333.wav")
    np.testing.assert_allclose(restored, waveform[4000:6664], atol=1e-6)


def test_names_carry_a_span_where_a_file_has_several_lines(tmp_path, out, write_audio, make, alone):
    for name in ("d/a.wav", "b.flac", "c.wav"):
        write_audio(tmp_path / "in" / name, seconds=1.0)
    run(
        make(
            {"audio_filepath": "d/a.wav", "offset": 0.25},
            {"audio_filepath": "d/a.wav", "duration": 0.25},
            {"audio_filepath": "d/a.wav"},
            {"audio_filepath": "b.flac", "duration": 1.0},
            {"audio_filepath": str(tmp_path / "in/c.wav")},
        ),
        out,
        alone,
    )
    outputs = {item: row["output"] for item, row in listed(out).items()}
    assert outputs == {
        "d/a@0.25.wav": "d/a@0.25.wav",
        "d/a@0+0.25.wav": "d/a@0+0.25.wav",
        "d/a.wav": "d/a.wav",
        "b@0+1.flac": "b.wav",
        "c.wav": "c.wav",
    }


def test_a_name_once_given_stays_when_lines_are_added(tmp_path, out, write_audio, make, alone):
    write_audio(tmp_path / "in/a.wav", seconds=1.0)
    first = {"audio_filepath": "a.wav", "duration": 0.5}
    run(make(first), out, alone)
    before = (out / "a.wav").stat().st_mtime_ns
    second = {"audio_filepath": "a.wav", "offset": 0.5, "duration": 0.5}
    assert run(make(second, first), out, alone).num_done == 1
    assert (out / "a.wav").stat().st_mtime_ns == before
    assert sorted(row["output"] for row in listed(out).values()) == ["a.wav", "a@0.5+0.5.wav"]


def test_files_outside_the_manifests_folder_stay_below_the_output(
    tmp_path, out, write_audio, make, alone
):
    write_audio(tmp_path / "elsewhere/x.wav")
    write_audio(tmp_path / "other/y.wav")
    run(
        make(
            {"audio_filepath": str(tmp_path / "elsewhere/x.wav")},
            {"audio_filepath": "../other/y.wav"},
        ),
        out,
        alone,
    )
    inside = str(tmp_path).lstrip("/")
    outputs = {row["output"] for row in listed(out).values()}
    assert outputs == {f"{inside}/elsewhere/x.wav", f"{inside}/other/y.wav"}
    assert all((out / output).is_file() for output in outputs)


def test_everything_else_passes_through_and_our_own_keys_win(
    tmp_path, out, write_audio, make, alone
):
    write_audio(tmp_path / "in/a.wav")
    line = {"audio_filepath": "a.wav", "text": "größe", "speaker": {"id": 3}, "id": "u1"}
    run(make({**line, "sample_rate": 1, "model": "mine"}), out, alone)
    row = listed(out)["a.wav"]
    assert (row["text"], row["speaker"], row["id"]) == ("größe", {"id": 3}, "u1")
    assert (row["sample_rate"], row["model"]) == (8000, "same-again")
    assert "offset" not in row
    run(make({**line, "text": "new"}), out, alone)
    assert listed(out)["a.wav"]["text"] == "new"


def test_every_dead_line_is_named_before_any_work(tmp_path, out, write_audio, make, alone):
    write_audio(tmp_path / "in/a.wav", seconds=1.0)
    bad = [
        ("{", "is no JSON"),
        ('["a.wav"]', "must be a JSON object"),
        ({"path": "a.wav"}, "audio_filepath must be a path"),
        ({"audio_filepath": "a.wav", "offset": -1}, "offset is -1"),
        ({"audio_filepath": "a.wav", "offset": "2"}, "offset is '2'"),
        ({"audio_filepath": "a.wav", "duration": 0}, "duration is 0"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "duration is nan"),
    ]
    good = {"audio_filepath": "a.wav"}
    task = make(good, "", *(line for line, _ in bad), good)
    with pytest.raises(UserError) as caught:
        run(task, out, alone)
    text = str(caught.value)
    assert "8 problems" in text
    for number, (_, reason) in enumerate(bad, start=3):
        assert f"m.jsonl, line {number}" in text
        assert reason in text
    assert "line 10 names the same as" in text
    assert not list(out.rglob("*.wav"))
    with pytest.raises(UserError, match="8 problems"):
        task.preview(overwrite=False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{{"audio_filepath": "a.wav", "offset": {"1" * 400}}}', "offset is 1111"),
        (f'{{"audio_filepath": "a.wav", "duration": {"1" * 400}}}', "duration is 1111"),
        (f'{{"audio_filepath": "a.wav", "offset": {"1" * 5000}}}', "integer string conversion"),
        ('{"audio_filepath": "a.wav", "offset": 1e300}', r"offset is 1e\+300"),
        (r'{"audio_filepath": "\ud800.wav"}', r"audio_filepath holds '\\ud800'"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"audio_filepath": "a.wav", "x":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too"),
    ],
    ids=["offset", "duration", "digits", "float", "surrogate", "list", "object"],
)
def test_contrived_lines_are_named_in_a_sentence(
    tmp_path, out, write_audio, make, alone, line, reason
):
    write_audio(tmp_path / "in/a.wav", seconds=1.0)
    with pytest.raises(UserError, match=rf"m\.jsonl, line 2:? .*{reason}") as caught:
        run(make({"audio_filepath": "a.wav"}, line), out, alone)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_name_that_is_no_utf8_is_restored(tmp_path, out, write_audio, make, alone):
    write_audio(tmp_path / "in/x.wav", seconds=1.0)
    (tmp_path / "in/x.wav").rename(tmp_path / "in/\udcff.wav")
    assert run(make({"audio_filepath": "\udcff.wav"}), out, alone).num_done == 1
    assert (out / "\udcff.wav").exists()


def test_text_with_half_a_surrogate_pair_is_carried_into_shards(
    tmp_path, out, write_audio, make_task, alone
):
    write_audio(tmp_path / "in/a.wav", seconds=1.0)
    line = {"audio_filepath": "a.wav", "text": "\ud800"}
    groups = Groups(Manifest(write_lines(tmp_path / "in/m.jsonl", line)), 2)
    assert run(make_task(shards=groups), out, alone).num_done == 1
    (shard,) = out.glob("*.tar")
    with shard.open("rb") as file:
        (sample,) = read_samples(file, str(shard))
    assert json.loads(sample.members["json"])["text"] == "\ud800"


def test_a_segment_behind_the_end_is_named_and_rounding_is_not(
    tmp_path, out, write_audio, make, alone
):
    write_audio(tmp_path / "in/a.wav", seconds=1.0)
    spans = [(0.5, 0.505), (1.0, None), (0.5, 0.6), (3, 1), (0, 0.00001)]
    lines = [{"audio_filepath": "a.wav", "offset": o, "duration": d} for o, d in spans]
    with pytest.raises(UserError) as caught:
        run(make(*lines), out, alone)
    text = str(caught.value)
    assert "4 problems" in text
    assert "line 2: offset 1 s lies behind the end of" in text
    assert "line 3: offset 0.5 s and duration 0.6 s lead behind the end of" in text
    assert "line 5: duration 1e-05 s is less than a sample" in text
    other = tmp_path / "other"
    assert run(make(lines[0], output_dir=other), other, alone).num_done == 1
    assert soundfile.info(other / "a.wav").frames == 4000


def test_missing_and_unreadable_files_are_rows(tmp_path, out, write_audio, make, alone):
    write_audio(tmp_path / "in/a.wav")
    (tmp_path / "in/bad.wav").write_text("no")
    lines = [{"audio_filepath": f"{name}.wav", "text": name} for name in ("a", "bad", "gone")]
    summary = run(make(*lines), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (1, 2, 3)
    rows = listed(out)
    assert "cannot be opened as audio" in rows["bad.wav"]["error"]
    assert "No such file" in rows["gone.wav"]["error"]
    assert rows["gone.wav"]["text"] == "gone"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (None, "is not a file"),
        (b"\n\n", "names no files"),
        (b'{"audio_filepath": "\xff.wav"}\n', "no text in UTF-8"),
    ],
)
def test_what_is_no_manifest_is_one_sentence(tmp_path, out, make_task, alone, write, reason):
    path = tmp_path / "m.jsonl"
    if write is not None:
        path.write_bytes(write)
    with pytest.raises(UserError, match=reason):
        run(make_task(recordings=Manifest(path)), out, alone)


def test_an_output_never_takes_the_place_of_an_input(tmp_path, write_audio, make_task, alone):
    write_audio(tmp_path / "in/a.wav")
    manifest = Manifest(write_lines(tmp_path / "in/m.jsonl", {"audio_filepath": "a.wav"}))
    task = make_task(recordings=manifest, output_dir=tmp_path / "in")
    before = (tmp_path / "in/a.wav").read_bytes()
    with pytest.raises(UserError, match="inside the output directory"):
        run(task, tmp_path / "in", alone)
    assert (tmp_path / "in/a.wav").read_bytes() == before
