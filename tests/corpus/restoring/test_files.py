"""A directory of anything in, the same directory restored out."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.audio.formats import FileFormat
from open_miipher.audio.resample import num_output_frames
from open_miipher.base.errors import Notice, UserError
from open_miipher.corpus.outcome import MaxFailures
from open_miipher.corpus.run import run
from open_miipher.restoration import FileSink


def manifest(out: Path) -> dict[str, dict]:
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == sorted(row["input"] for row in rows)
    return {row["input"]: row for row in rows}


def audio_files(out: Path) -> list[str]:
    found = [p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()]
    return sorted(f for f in found if not f.startswith(".ledger/") and f != "manifest.jsonl")


def leftovers(out: Path) -> list[Path]:
    return [p for p in out.rglob("*") if ".tmp" in p.name]


def test_three_files_of_one_name_give_three_outputs(
    source, out, write_audio, make_task, alone
) -> None:
    originals = {
        name: write_audio(source / name, rate=8000) for name in ("a/x.wav", "b/x.wav", "a/x.flac")
    }
    summary = run(make_task(), out, alone)
    assert summary.exit_code == 0
    assert audio_files(out) == ["a/x.flac.wav", "a/x.wav", "b/x.wav"]
    rows = manifest(out)
    assert rows["a/x.flac"]["output"] == "a/x.flac.wav"
    for name, original in originals.items():
        restored, _ = soundfile.read(out / rows[name]["output"])
        np.testing.assert_allclose(restored, original[:, 0], atol=1e-4)


AWKWARD = {
    "stereo.wav": {"channels": 2},
    "six.flac": {"channels": 6},
    "8k.wav": {"rate": 8000},
    "11k.mp3": {"rate": 11025, "seconds": 0.5},
    "44k.ogg": {"rate": 44100},
    "48k.opus": {"rate": 48000, "format": "OGG", "subtype": "OPUS"},
    "96k.aiff": {"rate": 96000},
    "192k.flac": {"rate": 192000, "subtype": "PCM_24"},
    "odd rate.wav": {"rate": 22222},
    "24 bit.wav": {"subtype": "PCM_24"},
    "float.wav": {"subtype": "FLOAT"},
    "mu law.wav": {"subtype": "ULAW"},
    "one sample.wav": {"seconds": 0},
    "one sample at 192k.wav": {"seconds": 0, "rate": 192000},
    "d/e/e/p/f/o/l/d/e/r/x.wav": {},
    "日本語/ёж & 'quotes' \"2\" $HOME.wav": {},
    "new\nline.wav": {},
    "UPPER.WAV": {},
    "long.wav": {"seconds": 5.3},
}


@pytest.mark.parametrize("channels", ["mono", "each"])
@pytest.mark.parametrize("sample_rate", ["model", "input", 24000])
def test_awkward_files_are_restored_to_the_exact_length(
    source, out, write_audio, make_task, alone, channels, sample_rate
) -> None:
    for name, how in AWKWARD.items():
        write_audio(source / name, **how)
    summary = run(make_task(channels=channels, sample_rate=sample_rate), out, alone)
    assert (summary.num_done, summary.num_failed) == (len(AWKWARD), 0)
    rows = manifest(out)
    for name in AWKWARD:
        before, after = soundfile.info(source / name), soundfile.info(out / rows[name]["output"])
        rate = {"model": 8000, "input": before.samplerate}.get(sample_rate, sample_rate)
        frames = num_output_frames(before.frames, before.samplerate, rate)
        assert (after.samplerate, after.frames) == (rate, frames)
        assert after.channels == (1 if channels == "mono" else before.channels)
        assert after.subtype == "PCM_16"
        row = rows[name]
        assert (row["sample_rate"], row["num_frames"]) == (rate, frames)
        assert (row["input_sample_rate"], row["input_num_frames"]) == (
            before.samplerate,
            before.frames,
        )
        assert row["duration"] == pytest.approx(frames / rate, abs=1e-6)
        assert row["seconds"] == pytest.approx(before.frames / before.samplerate, abs=1e-6)
        assert row["audio_filepath"] == row["output"]
        assert row["error"] is None
        assert row["model"] == "same-again"
        assert row["processing_seconds"] >= 0
    assert leftovers(out) == []


def test_the_manifest_says_how_channels_became_one(source, out, write_audio, make_task, alone):
    mono = write_audio(source / "mono.wav", seconds=0.5)
    soundfile.write(source / "opposite.wav", np.hstack([mono, -mono]), 8000)
    soundfile.write(source / "left.wav", np.hstack([mono, 0 * mono]), 8000)
    with pytest.warns(Notice, match="2 inputs with several channels are mixed to one"):
        assert run(make_task(), out, alone).exit_code == 0
    rows = manifest(out)
    assert {name: row["mix"] for name, row in rows.items()} == {
        "left.wav": "mean of 2 channels, raised by 6.0 dB",
        "mono.wav": None,
        "opposite.wav": "channel 1 of 2, because their mean cancels",
    }
    for name in rows:
        np.testing.assert_allclose(soundfile.read(out / name)[0], mono[:, 0], atol=1e-4)


def test_silent_clipped_and_loud_files(source, out, make_task, alone) -> None:
    loud = np.array([0.0, 1.5, -2.0, 0.5] * 100)
    soundfile.write(source / "silent.wav", np.zeros(4000), 8000)
    soundfile.write(source / "clipped.wav", np.sign(np.sin(np.arange(4000) / 9)), 8000)
    soundfile.write(source / "loud.wav", loud, 8000, subtype="FLOAT")
    assert run(make_task(), out, alone).exit_code == 0
    assert not soundfile.read(out / "silent.wav")[0].any()
    rows = manifest(out)
    assert rows["loud.wav"]["clipped_samples"] == 200
    assert rows["silent.wav"]["clipped_samples"] == 0
    assert np.abs(soundfile.read(out / "loud.wav")[0]).max() <= 1.0
    run(make_task(subtype="FLOAT"), out, alone, overwrite=True)
    np.testing.assert_allclose(soundfile.read(out / "loud.wav")[0], loud, atol=1e-5)
    assert manifest(out)["loud.wav"]["clipped_samples"] == 0


@pytest.mark.parametrize(
    ("format", "subtype"), [("flac", "PCM_16"), ("flac", "PCM_24"), ("wav", "PCM_24")]
)
def test_formats(source, out, write_audio, make_task, alone, format, subtype) -> None:
    original = write_audio(source / "a.wav")
    run(make_task(format=format, subtype=subtype), out, alone)
    info = soundfile.info(out / f"a.{format}")
    assert (info.format.lower(), info.subtype) == (format, subtype)
    np.testing.assert_allclose(
        soundfile.read(out / f"a.{format}")[0], original[:, 0], atol=2 / 2**15
    )


def test_bad_files_become_rows_and_the_others_are_restored(
    source, out, write_audio, make_task, alone
) -> None:
    write_audio(source / "good.wav")
    soundfile.write(source / "no frames.wav", np.zeros(0), 8000)
    (source / "empty.wav").write_bytes(b"")
    (source / "text.mp3").write_text("this is no audio")
    write_audio(source / "whole.wav")
    (source / "header.flac").write_bytes((source / "whole.wav").read_bytes()[:20])
    (source / "cut.wav").write_bytes((source / "whole.wav").read_bytes()[:-500])
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        waveform = np.zeros(20000, dtype=np.float32)
        waveform[15000] = value
        soundfile.write(source / name, waveform, 8000, subtype="FLOAT")
    (source / "nowhere.wav").symlink_to(source / "gone.wav")
    (source / "notes.txt").write_text("not asked for")
    summary = run(make_task(), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (2, 8, 3)
    assert audio_files(out) == ["good.wav", "whole.wav"]
    assert leftovers(out) == []
    rows = manifest(out)
    assert len(rows) == 10
    for name, reason in {
        "no frames.wav": "no audio frames",
        "empty.wav": "",
        "text.mp3": "as audio",
        "header.flac": "as audio",
        "cut.wav": "truncated",
        "nan.wav": "NaN or Inf at frame 15000",
        "inf.wav": "NaN or Inf at frame 15000",
        "nowhere.wav": "No such file",
    }.items():
        assert reason in rows[name]["error"]
        assert name in rows[name]["error"]
        assert rows[name]["output"] is None


def test_files_of_other_kinds_are_told_by_a_run_and_by_a_dry_run(
    source, out, write_audio, make_task, alone
) -> None:
    for name in ("a.flac", "b.wave"):
        write_audio(source / name, format="FLAC" if name == "a.flac" else "WAV")
    for name in ("c.gsm", "d.dss"):
        (source / name).write_text("")
    says = f"2 files of other kinds are passed over in {source}: 1 dss, 1 gsm; .* find {source} "
    with pytest.warns(Notice, match=says):
        make_task().preview(overwrite=False)
    with pytest.warns(Notice, match=says):
        assert run(make_task(), out, alone).exit_code == 0
    assert audio_files(out) == ["a.wav", "b.wav"]


def test_mended_files_are_restored_by_the_next_run(
    source, out, write_audio, make_task, alone
) -> None:
    write_audio(source / "good.wav")
    (source / "bad.wav").write_text("no")
    assert run(make_task(), out, alone).exit_code == 3
    first = (out / "good.wav").stat().st_mtime_ns
    write_audio(source / "bad.wav")
    summary = run(make_task(), out, alone)
    assert (summary.num_done, summary.exit_code) == (1, 0)
    assert (out / "good.wav").stat().st_mtime_ns == first
    assert manifest(out)["bad.wav"]["error"] is None


def test_a_file_that_failed_and_did_not_change_is_counted_and_not_tried_again(
    source, out, write_audio, make_task, alone, capsys
) -> None:
    write_audio(source / "good.wav")
    (source / "bad.wav").write_text("no")
    write_audio(source / "nan.wav", subtype="FLOAT")
    waveform = np.full(1600, np.nan, dtype=np.float32)
    soundfile.write(source / "nan.wav", waveform, 8000, subtype="FLOAT")
    (source / "nowhere.wav").symlink_to(source / "gone.wav")
    assert run(make_task(), out, alone).num_failed == 3
    rows = (out / ".ledger/rank-00000.jsonl").read_bytes()
    capsys.readouterr()
    summary = run(make_task(), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (0, 3, 3)
    said = "0 to do, 1 done before, 0 changed since, 0 unreadable, 3 failed before"
    assert said in capsys.readouterr().out
    assert (out / ".ledger/rank-00000.jsonl").read_bytes() == rows
    assert sum(row["error"] is not None for row in manifest(out).values()) == 3
    os.utime(source / "bad.wav", ns=(1, 1))
    write_audio(source / "nan.wav")
    write_audio(source / "gone.wav")
    summary = run(make_task(), out, alone)
    assert (summary.num_done, summary.num_failed) == (3, 1)
    assert "1 failed before" in make_task().preview(overwrite=False)[0]


def test_levels_of_input_and_output_are_in_the_row(source, out, make_task, alone) -> None:
    tone = 0.5 * np.sin(np.arange(16000) / 9)
    soundfile.write(source / "tone.wav", np.stack([tone, 0.1 * tone], axis=1), 8000)
    soundfile.write(source / "silent.wav", np.zeros(4000), 8000)
    soundfile.write(source / "loud.wav", np.tile([2.0, -2.0], 4000), 8000, subtype="FLOAT")
    run(make_task(channels="each"), out, alone)
    rows = manifest(out)
    levels = {n: (r["input_level_db"], r["output_level_db"]) for n, r in rows.items()}
    both = 20 * np.log10(np.sqrt((0.125 + 0.00125) / 2))
    assert levels["tone.wav"] == pytest.approx((both, both), abs=0.02)
    assert levels["silent.wav"] == (None, None)
    assert levels["loud.wav"] == pytest.approx((6.02, 0.0), abs=0.01)


def test_only_what_is_missing_changed_or_new_is_done_again(
    source, out, write_audio, make_task, alone, capsys
) -> None:
    for name in ("kept", "deleted", "cut", "changed"):
        write_audio(source / f"{name}.wav")
    run(make_task(), out, alone)
    before = {name: (out / name).stat().st_mtime_ns for name in audio_files(out)}
    (out / "deleted.wav").unlink()
    (out / "cut.wav").write_bytes((out / "cut.wav").read_bytes()[:100])
    longer = write_audio(source / "changed.wav", seconds=0.3)
    write_audio(source / "new.wav")
    write_audio(source / "kept.flac")
    capsys.readouterr()
    summary = run(make_task(), out, alone)
    assert "5 to do, 1 done before, 1 changed since, 0 unreadable" in capsys.readouterr().out
    assert summary.num_done == 5
    assert audio_files(out) == sorted([*before, "new.wav", "kept.flac.wav"])
    assert (out / "kept.wav").stat().st_mtime_ns == before["kept.wav"]
    assert soundfile.info(out / "changed.wav").frames == len(longer)
    assert soundfile.info(out / "cut.wav").frames == 1600


def test_a_file_that_exists_is_not_a_file_that_is_finished(
    source, out, write_audio, make_task, alone
) -> None:
    original = write_audio(source / "a.wav")
    out.mkdir()
    soundfile.write(out / "a.wav", np.zeros(10), 8000)
    assert run(make_task(), out, alone).num_done == 1
    np.testing.assert_allclose(soundfile.read(out / "a.wav")[0], original[:, 0], atol=1e-4)


def test_an_output_made_otherwise_is_never_mixed_in(
    source, out, write_audio, make_task, alone
) -> None:
    write_audio(source / "a.wav")
    run(make_task(), out, alone)
    for other in ({"fingerprint": "new"}, {"level": "peak"}, {"subtype": "PCM_24"}, {"seed": 3}):
        with pytest.raises(UserError, match=r"made otherwise.*--overwrite"):
            run(make_task(**other), out, alone)
        with pytest.raises(UserError, match="made otherwise"):
            make_task(**other).preview(overwrite=False)
    assert run(make_task(level="peak"), out, alone, overwrite=True).num_done == 1
    assert np.abs(soundfile.read(out / "a.wav")[0]).max() == pytest.approx(0.9, abs=1e-3)
    assert run(make_task(level="peak"), out, alone).num_done == 0


def test_nothing_is_written_beside_the_input(source, out, write_audio, make_task, alone) -> None:
    for name in ("a.wav", "b/c.flac"):
        write_audio(source / name)
    before = sorted(source.rglob("*"))
    for folder in (source / "b", source):
        folder.chmod(0o555)
    try:
        assert run(make_task(level="peak"), out, alone).exit_code == 0
    finally:
        for folder in (source, source / "b"):
            folder.chmod(0o755)
    assert sorted(source.rglob("*")) == before


def test_links_inside_the_root_are_followed_and_cycles_end(
    tmp_path, source, out, write_audio, make_task, alone
) -> None:
    write_audio(source / "real/a.wav")
    write_audio(tmp_path / "elsewhere/b.wav")
    (source / "again").symlink_to(source / "real")
    (source / "real/linked.wav").symlink_to(tmp_path / "elsewhere/b.wav")
    (source / "real/cycle").symlink_to(source)
    assert run(make_task(), out, alone).exit_code == 0
    files = audio_files(out)
    assert {"real/a.wav", "real/linked.wav", "again/a.wav", "again/linked.wav"} <= set(files)
    assert len(files) < 20


def test_temporary_files_of_a_killed_run_are_removed_and_no_others(
    source, out, write_audio, make_task, alone
) -> None:
    write_audio(source / "d/a.wav")
    (out / "d").mkdir(parents=True)
    for name in (".a.wav.123.tmp", ".a.wav.123.plain.tmp"):
        (out / "d" / name).write_bytes(b"x")
    (out / "d/mine.tmp").write_bytes(b"x")
    run(make_task(), out, alone)
    assert sorted(p.name for p in (out / "d").iterdir()) == ["a.wav", "mine.tmp"]


@pytest.mark.parametrize("inside", [".", "sub", "../in", ".."])
def test_output_and_input_must_not_lie_inside_each_other(source, make_task, inside) -> None:
    with pytest.raises(UserError, match="lie inside each other"):
        make_task(output_dir=source / inside)


def test_a_missing_or_empty_input_directory_is_one_sentence(
    tmp_path, source, out, make_task, alone
) -> None:
    with pytest.raises(UserError, match="nowhere is not a directory"):
        make_task(input_dir=tmp_path / "nowhere")
    (tmp_path / "file.wav").write_text("")
    with pytest.raises(UserError, match=r"file.wav is not a directory"):
        make_task(input_dir=tmp_path / "file.wav")
    with pytest.raises(UserError, match="holds no audio files"):
        run(make_task(), out, alone)
    with pytest.raises(UserError, match="holds no audio files"):
        make_task().preview(overwrite=False)


def test_too_little_room_is_known_before_any_work(
    source, out, write_audio, make_task, alone, monkeypatch
) -> None:
    write_audio(source / "a.wav", seconds=10)
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"make room, or choose another output directory"):
        run(make_task(), out, alone)
    text, status = make_task().preview(overwrite=False)
    assert status == 2
    assert "about 160.1 kB will be written to" in text
    assert "whose disk has 1.0 kB left; make room" in text


def test_a_run_that_came_to_nothing_binds_no_other(
    source, out, write_audio, make_task, alone, monkeypatch
) -> None:
    source.mkdir(exist_ok=True)
    with pytest.raises(UserError, match="holds no audio files"):
        run(make_task(level="peak"), out, alone)
    write_audio(source / "a.wav", seconds=10)
    with monkeypatch.context() as full:
        usage = shutil.disk_usage(source)
        full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match="make room"):
            run(make_task(), out, alone)
    run(make_task(level="none"), out, alone)
    (source / "a.wav").unlink()
    with pytest.raises(UserError, match="holds no audio files"):
        run(make_task(level="none"), out, alone)
    with pytest.raises(UserError, match="level was none and is peak"):
        run(make_task(level="peak"), out, alone)


def test_a_dry_run_counts_and_writes_nothing(source, out, write_audio, make_task, alone) -> None:
    write_audio(source / "a.wav", seconds=1.8)
    write_audio(source / "b.flac", seconds=1.8, channels=2)
    (source / "bad.mp3").write_text("no")
    task = make_task(sample_rate=500_000, channels="each")
    text, status = task.preview(overwrite=False)
    assert status == 3
    assert task.preview(overwrite=False, allowed=MaxFailures("1"))[1] == 0
    assert "3 (0 done before, 2 to restore, 1 unreadable, 0 failed before)" in text
    assert "audio:       3.6 s to restore" in text
    assert "5.4 MB" in text
    assert "bad.mp3 cannot be opened as audio" in text
    assert not out.exists()
    (source / "bad.mp3").unlink()
    run(task, out, alone)
    before = sorted(out.rglob("*"))
    assert "2 done before, 0 to restore" in task.preview(overwrite=False)[0]
    assert "0 done before, 2 to restore" in task.preview(overwrite=True)[0]
    assert sorted(out.rglob("*")) == before


def test_what_no_output_can_hold_is_an_error_row(source, out, write_audio, make_task, alone):
    write_audio(source / "nine.wav", channels=9)
    write_audio(source / "two.wav", channels=2)
    write_audio(source / ("n" * 251 + ".wav"))
    summary = run(make_task(format="flac", channels="each"), out, alone)
    assert (summary.num_done, summary.num_failed) == (1, 2)
    rows = manifest(out)
    assert "at most 8 channels" in rows["nine.wav"]["error"]
    assert "255 bytes" in rows["n" * 251 + ".wav"]["error"]


def test_names_that_are_no_text_are_restored_too(source, out, write_audio, make_task, alone):
    write_audio(source / "plain.wav")
    os.rename(source / "plain.wav", os.fsencode(source) + b"/\xff\xfe.wav")
    assert run(make_task(), out, alone).exit_code == 0
    assert os.listdir(os.fsencode(out)).count(b"\xff\xfe.wav") == 1


def test_a_file_that_changes_while_it_waits_is_an_error_row(
    source, out, write_audio, make_task, alone
) -> None:
    write_audio(source / "a.wav")
    task = make_task()
    process = task.process

    def swapped(items):
        write_audio(source / "a.wav", seconds=0.1)
        return process(items)

    task.process = swapped
    assert run(task, out, alone).num_failed == 1
    assert "was changed while it was waiting" in manifest(out)["a.wav"]["error"]


def test_an_output_directory_that_cannot_be_written_is_one_sentence(
    tmp_path, source, write_audio, make_task, alone
) -> None:
    write_audio(source / "a.wav")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file"):
            run(make_task(output_dir=place), place, alone)


@pytest.mark.parametrize(
    ("format", "subtype", "says"),
    [
        ("mp3", "PCM_16", "format"),
        ("wav", "PCM_12", "subtype"),
        ("flac", "FLOAT", "subtype"),
        ("wav", "PCM_S8", "subtype"),
    ],
)
def test_formats_that_do_not_exist_are_refused(format, subtype, says) -> None:
    with pytest.raises(UserError, match=says):
        FileFormat(format, subtype)


def test_an_output_may_be_moved_away_before_its_row_is_written(
    source, out, tmp_path, write_audio, make_task, alone, monkeypatch
) -> None:
    for number in range(3):
        write_audio(source / f"{number}.wav")
    settle = FileSink.settle

    def settled_and_uploaded(sink: FileSink) -> None:
        settle(sink)
        shutil.move(sink.path, tmp_path)

    monkeypatch.setattr(FileSink, "settle", settled_and_uploaded)
    assert run(make_task(), out, alone).num_done == 3
    rows = [json.loads(line) for line in (out / ".ledger/rank-00000.jsonl").open()]
    sizes = [(tmp_path / row["output"]).stat().st_size for row in rows]
    assert [row["output_bytes"] for row in rows] == sizes
