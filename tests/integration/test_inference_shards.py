"""`src/inference.py` from and to shards: local ones and S3, manifests, killed, wrongly used."""

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest
import soundfile
import webdataset
from moto.server import ThreadedMotoServer

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.commands import restore, status
from open_miipher.distributed import says
from open_miipher.shards import Sample, ShardWriter

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
DETERMINISTIC = ("--batch-size", "1", "--chunk-seconds", "0.5", "--overlap-seconds", "0.1")


def audio(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * RNG.standard_normal(round(24000 * seconds)), 24000, format="flac")
    return file.getvalue()


def pack(path: Path, first: int, count: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as writer:
        for number in range(first, first + count):
            members = {
                "flac": audio(0.3 + 0.1 * (number % 5)),
                "txt": f"text {number} ä".encode(),
                "json": json.dumps({"speaker": number % 3}).encode(),
            }
            writer.add(Sample(f"utt{number:04d}", members))


def shards(out: Path) -> dict[str, bytes]:
    found = (p for p in out.rglob("*.tar") if not p.name.startswith("."))
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found}


def listed(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def without_times(out: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "processing_seconds"} for row in listed(out)]


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    for number in range(3):
        pack(tmp_path / f"noisy/{number}.tar", 4 * number)
    return tmp_path / "noisy"


@pytest.fixture
def command(monkeypatch, chain: Path, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Run a command in this process; that of restoring gets --ckpt-dir, --device, --output-dir."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    handlers = [signal.getsignal(number) for number in numbers]

    def start(*arguments: object, script=restore) -> int:
        words = [str(argument) for argument in arguments]
        if script is restore:
            words += ["--ckpt-dir", str(chain), "--device", "cpu"]
            if "--output-dir" not in words:
                words += ["--output-dir", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["command", *words])
        return exit_on_user_error(script.main, says)()

    yield start
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def bucket(monkeypatch, tmp_path: Path) -> Iterator[str]:
    """The endpoint of a store with an empty bucket `corpus`, and credentials for it."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    endpoint = f"http://{host}:{port}"
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()  # of other tests
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="corpus")
    yield endpoint
    server.stop()


def upload(endpoint: str, folder: Path) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    for path in sorted(folder.rglob("*.tar")):
        key = f"noisy/{path.relative_to(folder).as_posix()}"
        client.upload_file(str(path), "corpus", key)


def test_shards_are_restored_carried_along_checked_and_then_skipped(
    command, noisy, tmp_path, capsys
) -> None:
    out = tmp_path / "out"
    assert command("--input-shards", f"{noisy}/{{0..2}}.tar", "--format", "flac", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "shards:      3 (0 done before, 3 to restore" in text
    assert "audio:       about " in text
    assert not out.exists()
    assert command("--input-shards", f"{noisy}/{{0..2}}.tar", "--format", "flac") == 0
    assert "3 shards restored, 0 failed" in capsys.readouterr().out
    assert sorted(shards(out)) == ["0.tar", "1.tar", "2.tar"]
    for name in shards(out):
        before = list(webdataset.WebDataset(str(noisy / name), shardshuffle=False))
        after = list(webdataset.WebDataset(str(out / name), shardshuffle=False))
        assert [s["__key__"] for s in after] == [s["__key__"] for s in before]
        for one, two in zip(before, after, strict=True):
            assert (one["txt"], one["json"]) == (two["txt"], two["json"])
            frames = [soundfile.info(io.BytesIO(s["flac"])).frames for s in (one, two)]
            assert frames[0] == frames[1]
            assert one["flac"] != two["flac"]
    assert len(listed(out)) == 12
    times = {name: (out / name).stat().st_mtime_ns for name in shards(out)}
    assert command("--input-shards", noisy, "--format", "flac") == 0
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    capsys.readouterr()
    assert command(out, "--verify", script=status) == 0
    text = capsys.readouterr().out
    assert "shards:      3 of 3 done, 0 left, 0 failed" in text
    assert "samples:     12 made, 0 failed" in text
    assert "all is as recorded" in text


def test_failed_samples_are_told_counted_and_tried_again(command, noisy, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    with ShardWriter(noisy / "bad.tar") as writer:
        for key, data in (("a", audio(0.3)), ("b", b"no"), ("c", b"neither"), ("d", audio(0.2))):
            writer.add(Sample(key, {"flac": data}))
    whole = (noisy / "2.tar").read_bytes()
    (noisy / "2.tar").write_bytes(whole[: len(whole) // 2])
    assert command("--input-shards", noisy) == 3
    captured = capsys.readouterr()
    assert "2 shards restored, 2 failed or lack samples that failed" in captured.out
    assert "bad.tar/b.flac cannot be opened as audio" in captured.err
    assert command(out, "--json", script=status) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["unit"], seen["num_done"], seen["num_failed"]) == ("shards", 2, 2)
    assert seen["samples"]["num_failed"] == 2
    reasons = {failure["reason"]: failure["count"] for failure in seen["failures"]}
    assert reasons["cannot be opened as audio: Format not recognised."] == 2
    assert len(reasons) == 2
    assert command(out, "--verify", "--retry-failed", script=status) == 0
    assert "forgotten:   2;" in capsys.readouterr().out
    (noisy / "2.tar").write_bytes(whole)
    assert command("--input-shards", noisy) == 3
    assert "1 shard restored, 1 failed" in capsys.readouterr().out
    assert len([row for row in listed(out) if row["error"] is None]) == 14


def test_a_manifest_of_segments_into_shards(command, noisy, tmp_path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    soundfile.write(folder / "talk.wav", 0.1 * RNG.standard_normal(24000 * 3), 24000)
    lines = [
        {"audio_filepath": "talk.wav", "offset": k / 2, "duration": 0.4321, "text": f"part {k}"}
        for k in range(5)
    ]
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ("--input-manifest", folder / "m.jsonl", "--output-shards", "2")
    assert command(*words, "--sample-rate", "16000") == 0
    out = tmp_path / "out"
    assert sorted(shards(out)) == [f"restored-00000{k}.tar" for k in range(3)]
    rows = listed(out)
    assert sorted(row["text"] for row in rows) == [f"part {k}" for k in range(5)]
    frames = int(0.4321 * 24000 + 0.5)
    assert {row["input_num_frames"] for row in rows} == {frames}
    assert {row["num_frames"] for row in rows} == {int(frames * 16000 / 24000 + 0.5)}
    read = [
        s
        for name in shards(out)
        for s in webdataset.WebDataset(str(out / name), shardshuffle=False)
    ]
    texts = {sample["__key__"]: json.loads(sample["json"])["text"] for sample in read}
    assert texts == {row["key"]: row["text"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--input-shards", "no-such-folder"], "no-such-folder holds no shards"),
        (["--input-shards", "x.tar", "--output-shards", "3"], "leave out --output-shards"),
        (["--input-audio-dir", ".", "--output-shards", "0"], "1 or more"),
        (["--input-audio-dir", ".", "--shard-member", "wav"], "goes with --input-shards alone"),
        (["--input-manifest", "none.jsonl"], "the manifest none.jsonl is not a file"),
        (["--input-manifest", "m.jsonl"], "m.jsonl, line 2: offset is -3"),
    ],
)
def test_wrong_use_is_one_sentence(
    command, tmp_path, capsys, monkeypatch, arguments, reason
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lines = [{"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav", "offset": -3}]
    Path("m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert not shards(tmp_path / "out")


def test_only_one_kind_of_input(command, capsys) -> None:
    for arguments in ((), ("--input-audio-dir", ".", "--input-manifest", "m.jsonl")):
        assert command(*arguments) == 2
        assert "--input-manifest" in capsys.readouterr().err


@pytest.mark.integration
def test_shards_of_a_store_are_restored_as_local_ones(
    command, noisy, bucket, tmp_path, capsys
) -> None:
    upload(bucket, noisy)
    here, there = tmp_path / "here", tmp_path / "there"
    store = ("--s3-endpoint-url", bucket)
    assert command("--input-shards", noisy, "--output-dir", here, *DETERMINISTIC) == 0
    urls = ("--input-shards", "s3://corpus/noisy/{0..2}.tar", "s3://corpus/noisy/3.tar")
    assert command(*urls[:-1], *store, "--output-dir", there, *DETERMINISTIC) == 0
    assert shards(there) == shards(here)
    assert without_times(there) == without_times(here)
    capsys.readouterr()
    assert command(*urls, *store, "--output-dir", there, *DETERMINISTIC) == 3
    captured = capsys.readouterr()
    assert "1 unreadable" in captured.out
    assert "s3://corpus/noisy/3.tar does not exist" in captured.err
    pack(noisy / "3.tar", 40)
    pack(noisy / "1.tar", 50)
    upload(bucket, noisy)
    assert command(*urls, *store, "--output-dir", there, *DETERMINISTIC) == 0
    assert "2 to do, 2 done before, 2 changed since" in capsys.readouterr().out
    assert len(listed(there)) == 16


@pytest.mark.integration
def test_from_a_store_to_a_store_and_nothing_is_made_twice(
    command, noisy, bucket, tmp_path, capsys, monkeypatch
) -> None:
    upload(bucket, noisy)
    out, client = tmp_path / "restored", boto3.client("s3", endpoint_url=bucket)
    words = ("--s3-endpoint-url", bucket, "--output-dir", out, *DETERMINISTIC)
    words += ("--outputs-elsewhere", "--input-shards")
    assert command(*words, "s3://corpus/noisy/{0..1}.tar") == 0
    assert sorted(shards(out)) == ["0.tar", "1.tar"]
    for name in shards(out):
        client.upload_file(str(out / name), "corpus", f"restored/{name}")
        (out / name).unlink()
    capsys.readouterr()
    assert command(*words, "s3://corpus/noisy/{0..2}.tar") == 0
    assert "1 to do, 2 done before" in capsys.readouterr().out
    assert list(shards(out)) == ["2.tar"]
    assert len(listed(out)) == 12
    look = ["status.py", str(out), "--verify", "--outputs-elsewhere", "--exit-status"]
    monkeypatch.setattr(sys, "argv", look)
    assert exit_on_user_error(status.main)() == 0
    (out / "2.tar").write_bytes(b"half")  # what is here has to be whole
    assert command(*words, "s3://corpus/noisy/{0..2}.tar") == 0
    assert "1 to do, 2 done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--output-dir", "s3://bucket/clean", "restore into a folder, upload what is done"),
        ("--output-dir", "gs://bucket/clean", "restore into a folder, upload what is done"),
        ("--input-audio-dir", "s3://bucket/noisy", "give tar shards of a store with"),
        ("--input-manifest", "https://x/m.jsonl", "give tar shards of a store with"),
    ],
)
def test_stores_are_no_folders(tmp_path, monkeypatch, option, value, says) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["inference.py", option, value])
    with pytest.raises(UserError, match=f"{value} is no.*{says}"):
        restore.parse_arguments()
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_stores_that_refuse_are_one_sentence(
    command, noisy, bucket, tmp_path, monkeypatch, capsys
) -> None:
    upload(bucket, noisy)
    store = ("--s3-endpoint-url", bucket)

    outputs = (tmp_path / f"out/{number}" for number in itertools.count())

    def error_of(*arguments: object) -> str:
        out = next(outputs)  # in one process, a lock may outlive its error
        assert command(*arguments, "--output-dir", out) == 2
        text = capsys.readouterr().err
        assert text.count("error: ") == 1
        assert "Traceback" not in text
        return text

    assert "s3://nowhere/noisy" in error_of("--input-shards", "s3://nowhere/noisy", *store)
    text = error_of("--input-shards", "s3://corpus/noisy", *store, "--s3-profile", "nobody")
    assert "nobody" in text
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    text = error_of("--input-shards", "s3://corpus/noisy/0.tar", *store)
    assert "refuses" in text
    assert "credentials" in text
    assert not shards(tmp_path / "out")


def processes_that_mention(text: str) -> list[int]:
    """Pids of live processes with `text` on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text.encode() in words and state != "Z":
            found.append(int(folder.name))
    return found


def kill_at_work(process: subprocess.Popen, out: Path, seconds: float) -> bool:
    """SIGKILL a run some seconds after its first sample is written; say whether it was at work."""

    def half_shards() -> set[Path]:
        return set(out.rglob(".*.tar.*.tmp"))

    deadline, before = time.monotonic() + 90, half_shards()
    while process.poll() is None and not half_shards() - before:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(seconds)
    was_at_work = process.poll() is None
    process.kill()
    process.wait()
    while processes_that_mention(str(out)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return was_at_work


def many(folder: Path) -> Path:
    for number in range(12):
        pack(folder / f"{number % 2}/{number:02d}.tar", 100 * number, 3 + number % 5)
    return folder


@pytest.mark.dist
@pytest.mark.integration
@pytest.mark.slow
def test_killed_at_random_and_completed_it_has_the_bytes_of_an_unbroken_run(
    chain, tmp_path, torchrun
) -> None:
    noisy, out, whole = many(tmp_path / "many"), tmp_path / "out", tmp_path / "whole"
    words = ["--ckpt-dir", str(chain), "--device", "cpu", "--input-shards", str(noisy)]
    words += [*DETERMINISTIC, "--output-dir"]
    unbroken = torchrun("src/inference.py", *words, str(whole), ranks=1)
    text, _ = unbroken.communicate(timeout=200)
    assert unbroken.returncode == 0, text
    rng = random.Random(0)
    num_killed = 0
    for _ in range(12):
        run = torchrun("src/inference.py", *words, str(out), ranks=2)
        num_killed += kill_at_work(run, out, rng.uniform(0.0, 0.2))
        for path in sorted(out.rglob("*.tar"))[::2]:  # lost, so that the next one finds work
            path.unlink()
        if num_killed == 3:
            break
    assert num_killed == 3
    last = torchrun("src/inference.py", *words, str(out), ranks=2)
    text, _ = last.communicate(timeout=200)
    assert last.returncode == 0, text
    assert shards(out) == shards(whole)
    assert without_times(out) == without_times(whole)
    assert [path for path in out.rglob("*") if ".tmp" in path.name] == []


@pytest.mark.dist
@pytest.mark.integration
@pytest.mark.slow
def test_a_killed_array_from_a_store_loses_no_sample(chain, tmp_path, bucket, command) -> None:
    noisy, out = many(tmp_path / "many"), tmp_path / "out"
    upload(bucket, noisy)
    words = ["--ckpt-dir", chain, "--device", "cpu", "--input-shards", "s3://corpus/noisy/"]
    words += [*DETERMINISTIC, "--s3-endpoint-url", bucket, "--output-dir", out]

    def start(index: int) -> subprocess.Popen:
        task = ["--num-shards", "2", "--shard-id", str(index)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, ROOT / "src/inference.py", *map(str, words), *task],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    tasks = [start(0), start(1)]
    deadline = time.monotonic() + 120
    while not shards(out):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tasks[0].kill()
    texts = [task.communicate(timeout=120)[0] for task in tasks]
    assert (tasks[0].returncode, tasks[1].returncode) == (-signal.SIGKILL, 0), texts
    again = start(0)
    text, _ = again.communicate(timeout=120)
    assert again.returncode == 0, text
    assert command(out, "--verify", script=status) == 0
    expected = [f"utt{100 * n + k:04d}" for n in range(12) for k in range(3 + n % 5)]
    read = [
        sample["__key__"]
        for name in shards(out)
        for sample in webdataset.WebDataset(str(out / name), shardshuffle=False)
    ]
    assert sorted(read) == sorted(expected)
    assert sorted(row["key"] for row in listed(out)) == sorted(expected)
