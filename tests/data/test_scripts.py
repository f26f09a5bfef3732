"""The scripts that make and show training data, run in this process."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

from open_miipher.audio.mel import LogMel, MelConfig
from open_miipher.base.registry import from_mapping
from open_miipher.config import compose_run
from open_miipher.data import LabelledAudio, LabelledAudioConfig
from open_miipher.data.config import AudioDirs, HeldOutAudio
from open_miipher.data.files import Files
from open_miipher.data.material import RecordedResponses
from open_miipher.degradation.reverb import direct_path
from open_miipher.index import Entry, read_index, write_index

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset/script"


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script's main with arguments; gives its status and what it printed."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        spec.loader.exec_module(module)
        status = module.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def bank(run_script, path: Path, *arguments: object) -> tuple[int, str, str]:
    small = ("--width", 3, 5, "--depth", 3, 5, "--height", 2.5, 3, "--rt60", 0.2, 0.25)
    return run_script("make_rir_bank", "--output-dir", path, "--num-workers", 2, *small, *arguments)


def test_rir_bank_is_deterministic_and_usable(run_script, tmp_path):
    assert bank(run_script, tmp_path / "one", "--num-rirs", 3)[0] == 0
    assert bank(run_script, tmp_path / "two", "--num-rirs", 2)[0] == 0
    index = read_index(tmp_path / "one")
    assert [entry.file_path for entry in index.entries] == [f"rir-00000{k}.flac" for k in range(3)]
    for k in range(2):
        name = f"rir-00000{k}.flac"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for entry in index.entries:
        assert 0.2 <= float(entry.extra["rt60"]) <= 0.25
        size, source, microphone = (
            np.array([float(entry.extra[f"{what}_{axis}"]) for axis in "xyz"])
            for what in ("room", "source", "microphone")
        )
        response, rate = soundfile.read(tmp_path / "one" / entry.file_path)
        assert rate == 24000
        assert np.abs(response).max() == pytest.approx(0.9, abs=1e-3)
        # the direct path arrives at the distance's time, and the simulator's own half filter
        seconds = np.linalg.norm(source - microphone) / 343.0
        expected = seconds * rate + 40
        assert direct_path(response, rate) == pytest.approx(expected, abs=3)
        assert ((source > 0.29) & (source < size - 0.29)).all()
    source = RecordedResponses(Files([str(tmp_path / "one")]), 24000)
    assert source(np.random.default_rng(0))[0].any()


def test_a_small_live_room_decays_as_long_as_it_should(run_script, tmp_path):
    from pyroomacoustics.experimental import measure_rt60

    size = [word for side in ("--width", "--depth", "--height") for word in (side, 2.5, 2.6)]
    options = ["--output-dir", tmp_path / "x", "--num-workers", 1, "--num-rirs", 1, *size]
    assert run_script("make_rir_bank", *options, "--rt60", 1.9, 2.0, "--sample-rate", 16000)[0] == 0
    response, rate = soundfile.read(tmp_path / "x/rir-000000.flac")
    rt60 = float(read_index(tmp_path / "x").entries[0].extra["rt60"])
    assert len(response) > rt60 * rate
    for decay in (20, 30, 50):  # dB: early, over the seam, late
        assert measure_rt60(response, rate, decay_db=decay) == pytest.approx(rt60, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num-rirs", 0), "--num-rirs"),
        (("--rt60", 0.5, 0.2), "--rt60 0.5 0.2 must go from low to high"),
        (("--width", 0.5, 5), "--width"),
        (("--rt60", 0.05, 0.05, "--num-rirs", 1), "no room of that size decays that fast"),
    ],
)
def test_rir_bank_refuses_what_cannot_be(arguments, message, run_script, tmp_path):
    status, _, err = bank(run_script, tmp_path / "bank", *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err


def test_rir_bank_does_not_overwrite_a_finished_one(run_script, tmp_path):
    bank(run_script, tmp_path, "--num-rirs", 1)
    status, _, err = bank(run_script, tmp_path, "--num-rirs", 1)
    assert status == 2
    assert "holds a metadata.csv already" in err


@pytest.mark.filterwarnings("ignore:.*upper band is empty")
def test_preview_writes_pairs_and_makes_one_again(run_script, speech_dir, tmp_path):
    overrides = (f"data.train.dir_list=[{speech_dir}]", "data.crop_seconds=0.5")
    overrides += ("data.sample_rate=48000",)  # more than the files have: a warning
    output = tmp_path / "preview"
    arguments = ("--output-dir", output, "--num-pairs", 4, "--epoch", 1, *overrides)
    status, out, err = run_script("preview_degradations", *arguments)
    assert status == 0
    assert err.startswith("warning: ")
    assert "UserWarning" not in err
    about = [json.loads(path.read_text()) for path in sorted(output.glob("*.json"))]
    assert len(about) == len(out.splitlines()) == 4
    assert {(pair["seed"], pair["epoch"]) for pair in about} == {(0, 1)}
    for suffix, count in {"-clean.wav": 4, "-damaged.wav": 4, ".png": 4}.items():
        assert len(list(output.glob(f"*{suffix}"))) == count

    again = tmp_path / "again"
    index = about[2]["index"]
    single = ("--output-dir", again, "--seed", 0, "--epoch", 1, "--index", index, *overrides)
    assert run_script("preview_degradations", *single)[0] == 0
    assert len(list(again.iterdir())) == 4
    for path in again.iterdir():
        first = output / path.name
        if path.suffix == ".wav":  # a float WAV holds the time it was made
            assert np.array_equal(soundfile.read(path)[0], soundfile.read(first)[0])
        else:
            assert path.read_bytes() == first.read_bytes()


def test_whole_files_are_damaged_alike_each_time_and_keep_their_columns(
    run_script, make_dir, tmp_path
):
    rng = np.random.default_rng(0)
    files = {f"{n}.flac": (0.1 * rng.standard_normal(24000).astype("f4"), 24000) for n in range(2)}
    clean = Path(make_dir("clean", files))
    write_index(clean, [Entry(f"{n}.flac", 24000, 24000, 1, {"text": f"t{n}"}) for n in range(2)])
    for name in ("one", "two"):
        given = ("--input-dir", clean, "--output-dir", tmp_path / name, "model=small_restorer")
        assert run_script("damage_audio", *given)[0] == 0
    index = read_index(tmp_path / "one")
    assert [(e.file_path, e.num_frames, e.extra) for e in index] == [
        (f"{n}.wav", 24000, {"text": f"t{n}"}) for n in range(2)
    ]
    for number, (waveform, _) in enumerate(files.values()):
        damaged, rate = soundfile.read(tmp_path / f"one/{number}.wav")
        assert (len(damaged), rate) == (24000, 24000)
        assert np.abs(damaged - waveform).max() > 1e-3
        same = (tmp_path / f"two/{number}.wav").read_bytes()
        assert (tmp_path / f"one/{number}.wav").read_bytes() == same
    status, _, err = run_script("damage_audio", *given)
    assert (status, "two is there" in err) == (2, True)


def test_two_files_that_would_become_one_are_refused(run_script, make_dir, tmp_path):
    tone = (np.full(4800, 0.1, "f4"), 24000)
    clean = make_dir("clean", {"a.flac": tone, "a.wav": tone})
    status, _, err = run_script(
        "damage_audio", "--input-dir", clean, "--output-dir", tmp_path / "d"
    )
    assert status == 2
    assert "a.flac and another file would both become a.wav" in err
    assert not (tmp_path / "d").exists()


@pytest.mark.filterwarnings("ignore:.*upper band is empty")
def test_preview_errors(run_script, speech_dir, tmp_path):
    status, _, err = run_script("preview_degradations", "--output-dir", tmp_path / "out")
    assert status == 2
    assert "data.train.dir_list is empty" in err
    one = ("--output-dir", tmp_path / "out", f"data.train.dir_list=[{speech_dir}]")
    status, _, err = run_script("preview_degradations", *one, "--index", 6)
    assert status == 2
    assert "--index 6 is not below 6 files" in err


def write_material(root: Path, kind: str, files: dict[str, tuple[str, int, float]]) -> Path:
    """Write constant files, {name: (speaker, rate, value)} of 0.1 s, and their index."""
    folder = root / kind
    folder.mkdir(parents=True)
    entries = []
    for name, (speaker, rate, value) in files.items():
        soundfile.write(folder / name, np.full(rate // 10, value), rate)
        entries.append(Entry(name, rate, rate // 10, 1, {"speaker": speaker} if speaker else {}))
    write_index(folder, entries)
    return folder


def test_a_split_keeps_speakers_apart_and_counts_each_alike(run_script, tmp_path):
    speech = {
        f"{k:02d}-{n}.wav": (f"s{k}", 16000, k / 40) for k in range(30) for n in range(1 + k % 7)
    }
    noise = {f"rain{k}.wav": ("", 24000, 0.1) for k in range(20)}
    rooms = {f"room{k}_ch{c}.wav": ("", 24000, 0.1) for k in range(20) for c in range(2)}
    folders = {
        "speech": write_material(tmp_path, "speech", speech),
        "noise": write_material(tmp_path, "noise", noise),
        "rir": write_material(tmp_path, "rir", rooms),
    }
    options = [word for kind, folder in folders.items() for word in (f"--{kind}-dirs", folder)]
    options += ["--output-dir", tmp_path / "out", "--files-per-speaker", 3, "--held-back", 0.3]
    assert run_script("split_by_speaker", *options)[0] == 0
    groups = {}
    for kind, files in (("speech", speech), ("noise", noise), ("rir", rooms)):
        for part in ("train", "test"):
            index = read_index(tmp_path / "out" / part / kind)
            groups[part, kind] = [entry.extra["group"] for entry in index.entries]
        apart = set(groups["train", kind]) & set(groups["test", kind])
        assert not apart
        assert len(groups["train", kind]) > len(groups["test", kind]) > 0
        if kind != "speech":
            assert len(groups["train", kind]) + len(groups["test", kind]) == len(files)
    speakers = groups["train", "speech"] + groups["test", "speech"]
    assert {speakers.count(name) for name in set(speakers)} == {3}
    assert len(set(speakers)) == 30
    heard = dict.fromkeys(range(30), 0)  # seconds of each speaker, less those that are repeated
    for part in ("train", "test"):
        for entry in read_index(tmp_path / "out" / part / "speech").entries:
            waveform, rate = soundfile.read(tmp_path / "out" / part / "speech" / entry.file_path)
            assert (len(waveform), rate) == (entry.num_frames, 16000)
            assert np.ptp(waveform) == 0  # no other speaker's
            heard[round(waveform[0] * 40)] += entry.num_frames
    for k, samples in heard.items():
        assert samples == 1600 * max(3, 1 + k % 7), k
    status, _, errors = run_script("split_by_speaker", *options)
    assert status == 2
    assert "holds a metadata.csv already" in errors


def test_a_split_needs_speakers(run_script, tmp_path):
    folder = write_material(tmp_path, "speech", {"a.wav": ("", 16000, 0.1)})
    status, _, errors = run_script(
        "split_by_speaker", "--speech-dirs", folder, "--output-dir", tmp_path / "out"
    )
    assert status == 2
    assert "names no speaker of a.wav" in errors


# Spoken digits out of Speech Commands.


def speech_commands(root: Path) -> Path:
    """Made-up clips in the archive's layout: a voice in each part, and words that are no digits."""
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rng = np.random.default_rng(0)
    for word in (*digits, "bed", "_background_noise_"):
        (root / word).mkdir(parents=True)
        for voice, name in (
            ("aa", None),
            ("bb", "validation_list.txt"),
            ("cc", "testing_list.txt"),
        ):
            path = f"{word}/{voice}_nohash_0.wav"
            soundfile.write(root / path, rng.uniform(-0.5, 0.5, 800), 16000)
            if name:
                lists[name].append(path)
    for name, paths in lists.items():
        (root / name).write_text("".join(f"{path}\n" for path in paths))
    return root


def prepare(run_script, source: Path, output: Path) -> tuple[int, str, str]:
    arguments = ("--speech-commands", source, "--output-dir", output, "--num-workers", 1)
    return run_script("prepare_sc09", *arguments)


def test_sc09_has_the_parts_of_the_lists_and_labels_by_folder(run_script, tmp_path):
    source, output = speech_commands(tmp_path / "all"), tmp_path / "sc09"
    status, out, _ = prepare(run_script, source, output)
    assert status == 0
    assert len(out.splitlines()) == 3
    for part, voice in {"train": "aa", "valid": "bb", "test": "cc"}.items():
        entries = read_index(output / part).entries
        assert len(entries) == 10
        assert {Path(entry.file_path).name for entry in entries} == {f"{voice}_nohash_0.wav"}
        assert {entry.extra["speaker"] for entry in entries} == {voice}
    linked = output / "train/seven/aa_nohash_0.wav"
    assert linked.samefile(source / "seven/aa_nohash_0.wav")
    held_out = HeldOutAudio([str(output / "test")])
    train = AudioDirs([str(output / "train")])
    data = LabelledAudio(LabelledAudioConfig(crop_seconds=0.05, train=train, test=held_out))
    assert (len(data.labels), data.labels[0]) == (10, "eight")
    assert data.train(0).num_items == data.validation(0).num_items == 10


def test_sc09_goes_on_after_an_interruption(run_script, tmp_path):
    """On another disk too, where files are copied."""
    source, output = speech_commands(tmp_path / "all"), tmp_path / "sc09"
    prepare(run_script, source, output)
    kept = output / "train/one/aa_nohash_0.wav"
    before = kept.stat().st_ino
    (output / "train/two/aa_nohash_0.wav").unlink()
    (output / "train/metadata.csv").unlink()
    with mock.patch.object(Path, "hardlink_to", side_effect=OSError):
        assert prepare(run_script, source, output)[0] == 0
    assert kept.stat().st_ino == before
    copied = output / "train/two/aa_nohash_0.wav"
    assert copied.read_bytes() == (source / "two/aa_nohash_0.wav").read_bytes()
    assert not copied.samefile(source / "two/aa_nohash_0.wav")
    assert len(read_index(output / "train")) == 10


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("testing_list.txt", "has no testing_list.txt: give the folder into which the archive"),
        ("six", "has no files in six: give the folder"),
        ("two/bb_nohash_0.wav", "lacks 1 files of its lists (the first: two/bb_nohash_0.wav)"),
        ("two/aa_nohash_0.wav", "leave no file of two for train"),
    ],
)
def test_sc09_refuses_half_an_archive(run_script, tmp_path, harm, words):
    source = speech_commands(tmp_path / "all")
    path = source / harm
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    status, _, err = prepare(run_script, source, tmp_path / "sc09")
    assert status == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "sc09").exists()


def test_sc09_names_a_damaged_list(run_script, tmp_path):
    source = speech_commands(tmp_path / "all")
    with (source / "testing_list.txt").open("ab") as file:
        file.write(b"six/\xff_nohash_0.wav\n")
    status, _, err = prepare(run_script, source, tmp_path / "sc09")
    assert status == 2
    assert re.search(r"testing_list.txt is damaged \(byte \d+ is no UTF-8\): unpack", err)
    assert len(err.splitlines()) == 1


def test_sc09_does_not_mix_with_other_files(run_script, tmp_path):
    source, output = speech_commands(tmp_path / "all"), tmp_path / "sc09"
    (output / "train/one").mkdir(parents=True)
    soundfile.write(output / "train/one/other.wav", np.zeros(80), 16000)
    status, _, err = prepare(run_script, source, output)
    assert status == 2
    assert "holds 1 files that are not of this part (the first: one/other.wav)" in err


# Mels in files.


def test_mels_in_files_are_those_that_training_makes(run_script, make_dir, tmp_path):
    rng = np.random.default_rng(0)
    waveforms = {f"{k}/{k}.wav": rng.uniform(-0.5, 0.5, 30000 + 5000 * k) for k in range(2)}
    root = make_dir("speech", {name: (w, 22050) for name, w in waveforms.items()})
    output = tmp_path / "mel256"
    dirs = f"data.train.dir_list=[{root}]"
    arguments = ("make_mels", "experiment=ljspeech", dirs, f"+output_dir={output}")
    status, out, _ = run_script(*arguments)
    assert status == 0
    assert "2 mels of 80 bands" in out
    vocoder = ["model=diffwave_vocoder_64", "experiment=ljspeech"]
    config = compose_run([*vocoder, dirs, f"data.train.mel_dir={output}"])
    data = config.data.train(0)
    log_mel = LogMel(from_mapping(MelConfig, config.model["mel"]))
    for position in range(4):
        sample = data[position]
        own = log_mel(torch.from_numpy(sample.waveform)[None])[0].T
        assert own.shape == sample.mel.shape == (80, 64)
        inside = slice(2, -2)  # frames that see nothing beyond the crop
        torch.testing.assert_close(torch.from_numpy(sample.mel)[:, inside], own[:, inside])


def test_making_mels_goes_on_and_does_not_mix_front_ends(run_script, make_dir, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    root = make_dir("speech", {f"{k}.wav": (noise, 22050) for k in range(3)})
    output = tmp_path / "mels"
    arguments = ["make_mels", f"data.train.dir_list=[{root}]", f"+output_dir={output}"]
    arguments.append("experiment=ljspeech")
    run_script(*arguments)
    before = (output / "0.npy").stat().st_mtime_ns
    (output / "1.npy").unlink()
    assert "1 mels of 80 bands, 2 were there" in run_script(*arguments)[1]
    assert (output / "0.npy").stat().st_mtime_ns == before
    status, _, err = run_script(*arguments, "model.mel.f_max=11025")
    assert status == 2
    assert "holds mels of another front end than the model's: f_max is 8000.0, not 11025.0" in err
    note = output / "mel.json"
    note.write_text(note.read_text().replace("8000.0", "8000"))
    assert "0 mels of 80 bands, 3 were there" in run_script(*arguments)[1]
    note.write_text("{")
    status, _, err = run_script(*arguments)
    assert status == 2
    assert "mel.json is damaged" in err


def test_mels_that_cannot_be_made_are_refused(run_script, make_dir, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2))
    same = make_dir("same", {"a.wav": (noise[:, 0], 22050), "a.flac": (noise[:, 0], 22050)})
    stereo = make_dir("stereo", {"a.wav": (noise, 22050)})
    start = ["make_mels", "experiment=ljspeech"]
    output = f"+output_dir={tmp_path / 'mels'}"
    cases = [
        ([], "give one folder for the mels: +output_dir=DIR"),
        ([output, f"data.train.dir_list=[{same}]"], "would have one mel, a.npy: rename one"),
        ([output, f"data.train.dir_list=[{stereo}]"], "a.wav has several channels"),
        ([output, "data.train.dir_list=[]"], "data.train.dir_list is empty"),
        ([output, "model.mel.sample_rate=16000"], "model.mel.sample_rate=16000 is not data.samp"),
    ]
    for arguments, words in cases:
        status, _, err = run_script(*start, *arguments)
        assert status == 2
        assert words in err
        assert len(err.splitlines()) == 1
    status, _, err = run_script("make_mels", "model=digit_classifier", output)
    assert "model=digit_classifier has no model.mel" in err
    assert not (tmp_path / "mels").exists()
