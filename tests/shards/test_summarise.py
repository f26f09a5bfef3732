"""dataset/script/summarise_shards.py: hours, durations and degradations, without decoding."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import s3
from pairs import RATE, pair, write_shard, write_shards

from open_miipher.shards import members

SCRIPT = Path(__file__).resolve().parents[2] / "dataset/script/summarise_shards.py"


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run the script with arguments; gives its status and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location("summarise_shards", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "summarise_shards", module)
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.setattr(sys, "argv", ["summarise_shards.py", *map(str, arguments)])
        spec.loader.exec_module(module)
        status = module.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.parametrize("extension", ["npy", "flac"])
def test_hours_durations_and_degradations_are_told(run_script, tmp_path, extension, monkeypatch):
    def refuse(*_):
        raise AssertionError("audio was decoded")

    monkeypatch.setattr(members, "_audio", refuse)
    samples = {}
    for number in range(10):
        drawn = [{"name": "noise", "snr_db": 3.0}] + [{"name": "reverb"}] * (number < 4)
        drawn = [drawn, drawn] if number == 7 else drawn  # a sample of two pieces
        about = {"degradations.json": json.dumps(drawn).encode()}
        samples[f"k{number}"] = {**pair(number, 0.9 + 0.1 * number, RATE, extension), **about}
    first = write_shard(tmp_path / "a.tar", samples)
    second = write_shards(tmp_path / "b", [2], seconds=1.8)[0]
    status, out, err = run_script(first, tmp_path / "b")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    hours = sum(0.9 + 0.1 * n for n in range(10)) / 3600
    assert lines[1][0] == "10"
    assert float(lines[1][1]) == pytest.approx(hours, abs=1e-3)
    assert lines[1][-1] == first
    assert lines[2][-1] == second
    assert lines[3][:2] == ["12", f"{hours + 3.6 / 3600:.3f}"]
    assert "seconds, mean 1.43; percentiles 0 %: 0.90," in out
    assert "50 %: 1.45," in out
    assert "100 %: 1.80" in out
    bars = [line for line in out.splitlines() if " - " in line]
    assert sum(int(bar.split()[3]) for bar in bars) == 12
    assert "degradations of 10 samples" in out
    assert ["10", "100.0", "%", "noise"] in lines
    assert ["4", "40.0", "%", "reverb"] in lines


def test_broken_shards_are_named_and_the_others_told(run_script, tmp_path):
    urls = write_shards(tmp_path, [2, 2, 2])
    whole = Path(urls[1]).read_bytes()
    Path(urls[1]).write_bytes(whole[: len(whole) // 2])
    Path(urls[2]).write_bytes(b"")
    status, out, err = run_script(tmp_path, tmp_path / "x" / "missing.tar")
    assert status == 1
    assert f"{urls[0]}\n" in out
    assert out.count("(broken)") == 3
    assert "all 4 shards" in out
    reasons = ["shard-001", "shard-002.tar is empty", "does not exist"]
    for line, reason in zip(err.splitlines(), reasons, strict=True):
        assert line.startswith("broken: ")
        assert reason in line


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("degradations.json", b"{", "degradations.json is damaged"),
        ("sr.index", b"no", "sr.index is damaged"),
        ("sr.index", None, "neither its audio nor sr.index tells its sample rate"),
        ("input_wav.npy", b"no", "input_wav.npy is no waveform"),
    ],
)
def test_damaged_members_are_named(run_script, tmp_path, name, data, reason):
    members = {k: v for k, v in {**pair(0), name: data}.items() if v is not None}
    url = write_shard(tmp_path / "a.tar", {"good": pair(1), "bad": members})
    status, _, err = run_script(url)
    assert status == 1
    assert err.startswith(f"broken: {url} bad: {reason}")


def test_samples_without_audio_are_counted_and_the_others_told(run_script, tmp_path):
    silent = {"sr.index": b"24000", "degradations.json": b'[{"name": "noise"}]'}
    samples = {"a": pair(0), "b": silent, "c": {"txt": b"words"}, "d": pair(1)}
    url = write_shard(tmp_path / "a.tar", samples)
    status, out, err = run_script(url)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split()[0] == "4"
    assert "mean 0.50; percentiles 0 %: 0.50" in out
    assert "degradations of 1 sample" in out
    assert lines[-1] == "2 of 4 samples hold no audio"
    only = write_shard(tmp_path / "b.tar", {"c": {"txt": b"words"}})
    status, out, err = run_script(only)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "1 of 1 samples hold no audio"


@pytest.mark.parametrize("extension", ["npy", "flac"])
def test_extensions_are_read_in_any_case(run_script, tmp_path, extension):
    members = pair(0, 1.5, extension=extension)
    loud = {name.replace(extension, extension.upper()): data for name, data in members.items()}
    status, out, err = run_script(write_shard(tmp_path / "a.tar", {"UP": loud}))
    assert (status, err) == (0, "")
    assert "seconds, mean 1.50" in out
    assert "no audio" not in out


def test_names_that_are_no_utf8_are_told_readably(run_script, tmp_path):
    bad = {**pair(0), "sr\udcff.npy": b"no"}
    url = write_shard(tmp_path / "\udcff.tar", {"k\udcff": bad})
    status, out, err = run_script(url)
    assert status == 1
    assert f"{tmp_path}/\\xff.tar (broken)\n" in out
    assert r"\xff.tar k\xff: sr\xff.npy is no waveform" in err
    (out + err).encode()


def test_nothing_to_read_is_wrong_use(run_script, tmp_path):
    status, _, err = run_script(tmp_path)
    assert status == 2
    assert "holds no shards" in err
    assert run_script(tmp_path, "--num-workers", 0)[0] == 2


def test_objects_are_read_as_well(run_script, tmp_path, monkeypatch):
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    with s3.running_store() as store:
        store.upload(write_shards(tmp_path, [3], seconds=1.2)[0], "deep/x.tar")
        status, out, err = run_script("s3://bucket/deep", "--endpoint-url", store.endpoint_url)
    assert (status, err) == (0, "")
    assert "s3://bucket/deep/x.tar" in out
    assert "seconds, mean 1.20" in out
