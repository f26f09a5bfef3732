"""`src/preprocess.py` as users run it: ranks, kills, arrays, bad input in one sentence."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import pytest

from open_miipher.base.errors import exit_on_user_error
from open_miipher.commands import preprocess
from open_miipher.distributed import says
from open_miipher.shards import decode_waveform, read_samples

ROOT = Path(__file__).resolve().parents[2]
SPEECH = ROOT / "dataset/demo/speech"
SMALL = [
    "data=webdataset_preprocess_24k", "data.crop_seconds=1.5", "data.sample_seconds=1.0",
    "preprocess.shard_maxcount=3", "preprocess.writer_name=w", "preprocess.crops=all",
]  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six tar files with the demo's speech, one of them compressed."""
    (tmp_path / "raw").mkdir()
    files = sorted((SPEECH / "train").glob("*.flac"))
    for number in range(6):
        suffix = "tar.gz" if number == 5 else "tar"
        mode = "w:gz" if number == 5 else "w"
        with tarfile.open(tmp_path / f"raw/{number}.{suffix}", mode) as tar:
            for file in files[2 * number : 2 * number + 2]:
                tar.add(file, f"{number}/{file.name}")
                header = tarfile.TarInfo(f"{number}/{file.stem}.txt")
                tar.addfile(header, io.BytesIO(b""))
    return tmp_path / "raw"


def shards(root: Path) -> dict[str, bytes]:
    """Every shard under a writer's folder, by its path there."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.tar")}


@pytest.fixture
def call(run_script):
    """Return a function that runs the command with `SMALL` and more overrides to its end."""
    return partial(run_script, "src/preprocess.py", *SMALL, check=False)


@pytest.mark.integration
@pytest.mark.slow
def test_status_tells_how_far_it_is_and_what_reads_the_shards(tmp_path, call):
    done = call(
        f"data.train.dir_list=[{SPEECH / 'train'}]", f"preprocess.output_root={tmp_path / 'out'}"
    )
    assert done.returncode == 0, done.stderr
    command = [sys.executable, ROOT / "src/status.py", tmp_path / "out/w/train/0"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert re.search(r"inputs: +(\d+) of \1 done, 0 left, 0 could not be read in full", told.stdout)
    told = subprocess.run([*command, "--verify"], capture_output=True, text=True, timeout=60)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert "dataset/script/summarise_shards.py" in told.stderr


@pytest.mark.dist
@pytest.mark.integration
def test_two_ranks_make_what_one_makes_and_another_number_goes_on(tmp_path, raw, call):
    given = [f"data.train.urls=[{raw}]", f"data.test.dir_list=[{SPEECH / 'test'}]"]
    alone = call(*given, f"preprocess.output_root={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "train: 12 files of" in alone.stdout
    assert "val: 4 files of" in alone.stdout
    two = call(*given, f"preprocess.output_root={tmp_path / 'two'}", ranks=2)
    assert two.returncode == 0, two.stdout + two.stderr
    whole = shards(tmp_path / "alone/w")
    assert {path.split("/")[0] for path in whole} == {"train", "val"}
    assert shards(tmp_path / "two/w") == whole
    lost = sorted(whole)[::3]
    for path in lost:
        (tmp_path / "two/w" / path).unlink()
    assert call(*given, f"preprocess.output_root={tmp_path / 'two'}").returncode == 0
    assert shards(tmp_path / "two/w") == whole
    for path, data in whole.items():
        for sample in read_samples(io.BytesIO(data), path):
            lengths = {
                decode_waveform(sample.members[name], name)[0].shape[1]
                for name in ("input_wav.npy", "noisy_input_wav.npy")
            }
            (length,) = lengths
            names = json.loads(sample.members["names.json"])
            assert sum(n["seconds"] for n in names) == pytest.approx(length / 24000, abs=1e-4)


@pytest.mark.dist
@pytest.mark.integration
@pytest.mark.slow
def test_ten_kills_of_torchrun_change_nothing(tmp_path, raw, torchrun, call):
    given = [f"data.train.urls=[{raw}]", f"data.test.dir_list=[{SPEECH / 'test'}]"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    words = ["src/preprocess.py", *SMALL, *given, f"preprocess.output_root={broken}"]
    rng = random.Random(0)
    num_killed = 0
    for _ in range(30):
        # what is made already is lost again, so that every kill finds work
        for path in sorted(broken.rglob("*.tar"))[:: rng.randint(1, 3)]:
            path.unlink()
        ledger = broken / "w/train/0/.ledger/run.json"
        before = ledger.read_text() if ledger.exists() else ""
        run = torchrun(*words, ranks=2)
        deadline = time.monotonic() + 120
        while not (ledger.exists() and ledger.read_text() != before) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        num_killed += run.poll() is None
        run.kill()  # nothing, if it has come to its end
        run.wait()
        time.sleep(0.5)  # the ranks and their writers end by themselves
        if num_killed == 10:
            break
    assert num_killed == 10
    last = torchrun(*words, ranks=2)
    assert last.wait(200) == 0, last.stdout.read()
    assert call(*given, f"preprocess.output_root={whole}").returncode == 0
    assert shards(broken) == shards(whole)
    assert not list(broken.rglob("*.tmp"))


@pytest.mark.dist
@pytest.mark.integration
@pytest.mark.slow
def test_an_array_makes_everything_once_and_a_signal_asks_for_the_requeue(tmp_path, raw, call):
    given = [f"data.train.urls=[{raw}]", f"preprocess.output_root={tmp_path / 'out'}"]
    marks = tmp_path / "out/w/.jobs/0"
    command = [sys.executable, ROOT / "src/preprocess.py", *SMALL, *given]
    array = ["preprocess.num_shards=2", "preprocess.shard_id=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([*command, *array], env=environment, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "out/w/train/0/.ledger/shard-00000-of-00002"
    deadline = time.monotonic() + 120
    while not (folder / "runs.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGTERM)
    text, _ = first.communicate(timeout=100)
    mark = marks / "shard-00000-of-00002/REQUEUE"
    assert mark.exists() == (first.returncode == 4), text
    codes = [call(*given, *array[:1], f"preprocess.shard_id={k}").returncode for k in (0, 1)]
    assert codes == [0, 0]
    assert not mark.exists()
    assert call(*given, "preprocess.job_id=whole").returncode == 0
    made = shards(tmp_path / "out/w/train/0")
    assert made == shards(tmp_path / "out/w/train/whole")
    assert json.loads((tmp_path / "out/w/train/0/summary.json").read_text())["files"] == 12


@pytest.mark.parametrize(
    ("overrides", "says_so"),
    [
        ([], "there is nothing to preprocess: give data.train.dir_list"),
        (["data=nothing"], "data/nothing"),
        (["data.train.urls=[{tmp}/no.tar]"], "no.tar does not exist"),
        (["data.train.urls=[{tmp}/*.tar]"], "holds no shards"),
        (["data.train.urls=['{tmp}/{{0..9.tar']"], "braces"),
        (["data.train.dir_list=[{tmp}/empty]"], "metadata.csv"),
        (["data.train.dir_list=[{speech}]", "data.test.dir_list=[{speech}]"], "stands in data.tr"),
        (["data.train.dir_list=[{speech}]", "preprocess.output_root={speech}"], "lie inside each"),
        (
            ["data.train.dir_list=[{speech}]", "data.train.noise_dir_list=[{tmp}/empty]"],
            "metadata.csv",
        ),
        (["data.train.dir_list=[{speech}]", "preprocess.output_root=s3://b/x"], "of this machine"),
        (["data.train.dir_list=[{speech}]", "preprocess.writer_name=a/b"], "name of a folder"),
        (["data.train.dir_list=[{speech}]", "preprocess.shard_maxcount=0"], "must be at least 1"),
        (["data.train.dir_list=[{speech}]", "preprocess.num_writers=0"], "must be at least 1"),
        (["data.train.dir_list=[{speech}]", "preprocess.audio_format=mp3"], "one of npy, flac"),
        (["data.train.dir_list=[{speech}]", "preprocess.num_shards=2"], "belong together"),
        (
            ["data.train.dir_list=[{speech}]", "preprocess.num_shards=2", "preprocess.shard_id=2"],
            "one of 0",
        ),
        (["data.train.dir_list=[{speech}]", "data.sample_rate=4000"], "at least 8000"),
        (["data.train.dir_list=[{speech}]", "data.peak=2"], "data.peak"),
        (["data.train.dir_list=[{speech}]", "preprocess.writer=w"], "preprocess.writer"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    overrides, says_so, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    given = [word.format(tmp=tmp_path, speech=SPEECH / "train") for word in overrides]
    words = [*SMALL, f"preprocess.output_root={tmp_path / 'out'}", *given]
    monkeypatch.setattr(sys, "argv", ["preprocess.py", *words])
    assert exit_on_user_error(preprocess.main, says)() == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert says_so in captured.err
    assert not list(tmp_path.rglob("*.tar"))


def test_help_and_configuration(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preprocess.py", "--cfg", "job", *SMALL])
    assert preprocess.main() == 0
    assert "shard_maxcount: 3" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["preprocess.py", "-h"])
    with pytest.raises(SystemExit):
        preprocess.main()
    assert "examples:" in capsys.readouterr().out
