"""The command `src/inference.py`, alone and under torchrun, used rightly and wrongly, killed."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import exit_on_user_error
from open_miipher.commands import options as shared
from open_miipher.commands import restore, restore_options
from open_miipher.distributed import REQUEUE, says
from open_miipher.restoration import Restorer

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


def write(path: Path, seconds: float = 0.3, rate: int = 24000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * RNG.standard_normal(round(seconds * rate)), rate)


def outputs(out: Path) -> dict[str, bytes]:
    files = (p for p in out.rglob("*.wav") if not p.name.startswith("."))
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def manifest(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    for name in ("a/x.wav", "b/x.wav", "a/x.flac"):
        write(tmp_path / "noisy" / name)
    return tmp_path / "noisy"


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, chain: Path, noisy: Path, tmp_path: Path
) -> Iterator[Callable[..., int]]:
    """Run the command in this process; `--ckpt-dir` and the directories are given unless named."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    handlers = [signal.getsignal(number) for number in numbers]

    def start(*arguments: object) -> int:
        words = [str(argument) for argument in arguments]
        defaults = {
            "--ckpt-dir": chain,
            "--input-audio-dir": noisy,
            "--output-dir": tmp_path / "out",
            "--device": "cpu",
        }
        for name, value in defaults.items():
            if name not in words:
                words += [name, str(value)]
        monkeypatch.setattr(sys, "argv", ["inference.py", *words])
        return exit_on_user_error(restore.main, says)()

    yield start
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def test_a_directory_is_restored_with_its_tree_and_then_skipped(
    command, chain, tmp_path, capsys
) -> None:
    assert command() == 0
    restored = outputs(tmp_path / "out")
    assert sorted(restored) == ["a/x.flac.wav", "a/x.wav", "b/x.wav"]
    assert [row["error"] for row in manifest(tmp_path / "out")] == [None] * 3
    text = capsys.readouterr().out
    assert re.match(rf"model \w+, of {chain}/ckpt/step-0+7, step 7 \(moving average .*\), on cpu "
                    rf"\(the newest in {chain}\)\n", text)  # fmt: skip
    assert "3 files restored, 0 failed" in text
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in restored}
    assert command() == 0
    assert {n: (tmp_path / "out" / n).stat().st_mtime_ns for n in restored} == times
    assert "nothing to do: 3 files restored before" in capsys.readouterr().out
    assert command("--overwrite") == 0
    assert {n: (tmp_path / "out" / n).stat().st_mtime_ns for n in restored} != times
    assert outputs(tmp_path / "out") == restored


def test_every_option_reaches_the_output(command, noisy, tmp_path) -> None:
    waveform = 0.1 * RNG.standard_normal((4000, 2))
    soundfile.write(noisy / "two.wav", waveform, 16000)
    assert (
        command(
            *("--sample-rate", "input", "--channels", "each", "--format", "flac"),
            *("--subtype", "PCM_24", "--level", "peak", "--strength", 0.5, "--seed", 3),
            *("--chunk-seconds", 0.2, "--overlap-seconds", 0, "--batch-size", 2),
            *("--normalise-over", "chunk"),
            *("--amp", "bf16", "--no-ema"),
        )
        == 0
    )
    info = soundfile.info(tmp_path / "out/two.flac")
    assert (info.samplerate, info.channels, info.frames) == (16000, 2, 4000)
    assert info.subtype == "PCM_24"
    restored, _ = soundfile.read(tmp_path / "out/two.flac")
    assert np.abs(restored).max() == pytest.approx(0.9, abs=1e-4)
    run = json.loads((tmp_path / "out/.ledger/run.json").read_text())["identity"]
    assert run["strength"] == 0.5
    assert run["normalise_over"] == "chunk"
    assert run["model"].endswith("-bf16")


def test_strength_0_copies_the_input(command, noisy, tmp_path) -> None:
    assert command("--strength", 0, "--subtype", "FLOAT") == 0
    before, _ = soundfile.read(noisy / "b/x.wav", dtype="float32")
    after, _ = soundfile.read(tmp_path / "out/b/x.wav", dtype="float32")
    np.testing.assert_array_equal(before, after)


def test_a_bad_file_is_a_row_and_the_status_says_so(command, noisy, tmp_path, capsys) -> None:
    (noisy / "bad.wav").write_text("not audio")
    assert command() == 3
    captured = capsys.readouterr()
    assert "3 files restored, 1 failed" in captured.out
    assert "bad.wav" in captured.err
    assert "Traceback" not in captured.out + captured.err
    assert len(outputs(tmp_path / "out")) == 3


def test_a_dry_run_writes_nothing(command, noisy, tmp_path, capsys) -> None:
    assert command("--dry-run") == 0
    assert "3 to restore" in capsys.readouterr().out
    (noisy / "bad.wav").write_text("not audio")
    assert command("--dry-run") == 3
    assert "bad.wav" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ckpt-dir", "nowhere"), "there is no checkpoint at nowhere"),
        (("--input-audio-dir", "nowhere"), "nowhere is not a directory"),
        (("--output-dir", ROOT), "cannot be: this is replaced below"),
        (("--overlap-seconds", 15), "half a chunk"),
        (("--chunk-seconds", 0.001, "--overlap-seconds", 0), "feature frame"),
        (("--strength", 2), "strength"),
        (("--sample-rate", 5), "sample rate"),
        (("--format", "flac", "--subtype", "FLOAT"), "subtype"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(
    command, noisy, tmp_path, capsys, arguments, says
) -> None:
    if ROOT in arguments:
        arguments, says = ("--output-dir", noisy / "restored"), "lie inside each other"
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()
    assert not (noisy / "restored").exists()


def test_no_batch_and_no_rank_is_refused_before_the_model_is_loaded(command, capsys) -> None:
    for option in ("--batch-size", "--ranks-per-gpu"):
        assert command(option, 0, "--dry-run") == 2
        assert f"argument {option}: '0': choose 1 or more" in capsys.readouterr().err


def test_outputs_of_another_model_are_not_mixed_in(command, peak_chain, tmp_path, capsys) -> None:
    assert command() == 0
    before = outputs(tmp_path / "out")
    assert command("--ckpt-dir", peak_chain) == 2
    assert "made otherwise (model was" in capsys.readouterr().err
    assert outputs(tmp_path / "out") == before
    assert command("--ckpt-dir", peak_chain, "--overwrite") == 0
    assert outputs(tmp_path / "out") != before


def test_the_help_explains_every_option(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["inference.py", "-h"])
    with pytest.raises(SystemExit) as ended:
        restore.parse_arguments()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    rows = inspect.getsource(restore_options) + inspect.getsource(shared)
    options = re.findall(r'add(?:_argument)?\(\s*"(--[a-z0-9-]+)"', rows)
    options.remove("--cfg")  # of the commands with a configuration
    assert len(options) == 36
    for option in options:
        assert text.count(option) >= 2, option


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


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.05)


def many_files(root: Path, count: int = 30) -> None:
    for number in range(count):
        write(root / f"{number % 3}/{number:02d}.wav", 1.0 + 0.05 * number)


@pytest.mark.integration
def test_plain_python_works_from_anywhere(chain, noisy, tmp_path) -> None:
    words = ["--ckpt-dir", chain, "--input-audio-dir", "noisy", "--output-dir", "out"]
    result = subprocess.run(
        [sys.executable, ROOT / "src/inference.py", *words, "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert len(outputs(tmp_path / "out")) == 3


@pytest.mark.dist
@pytest.mark.integration
def test_killed_and_restarted_with_other_ranks_every_file_is_there_once(
    chain, tmp_path, torchrun, start_script, command
) -> None:
    noisy, out, whole = tmp_path / "many", tmp_path / "out", tmp_path / "whole"
    many_files(noisy)
    (noisy / "bad.wav").write_text("not audio")
    words = ["--ckpt-dir", str(chain), "--input-audio-dir", str(noisy), "--device", "cpu"]
    words += ["--chunk-seconds", "0.5", "--overlap-seconds", "0.1", "--output-dir"]

    killed = torchrun("src/inference.py", *words, str(out), ranks=2)
    wait_until(lambda: len(outputs(out)) >= 4, 90, "a first output")
    killed.kill()
    killed.wait()
    wait_until(lambda: not processes_that_mention(str(out)), 5, "the end of the workers")
    done = len(outputs(out))
    (out / "0").mkdir(exist_ok=True)
    (out / "0/.00.wav.1.tmp").write_bytes(b"left over")

    again = start_script("src/inference.py", *words, out, ranks=3)
    wait_until(lambda: len(outputs(out)) > done or again.is_over, 90, "progress")
    os.kill(again.pids[-1], signal.SIGKILL)  # one rank alone
    assert again.end(90).returncode == -signal.SIGKILL

    assert command(*words, out) == 3  # bad.wav
    assert command(*words, whole) == 3
    assert len(outputs(out)) == 30
    assert sorted(outputs(out)) == sorted(outputs(whole))
    for name in outputs(out):  # batches differ, and so does rounding
        restored, expected = (soundfile.read(folder / name)[0] for folder in (out, whole))
        np.testing.assert_allclose(restored, expected, atol=2 / 2**15)
    rows = manifest(out)
    assert len(rows) == 31
    assert [row["input"] for row in rows if row["error"] is not None] == ["bad.wav"]
    assert sorted(row["output"] for row in rows if row["output"]) == sorted(outputs(out))
    assert [p for p in out.rglob("*") if ".tmp" in p.name] == []


@pytest.mark.dist
@pytest.mark.integration
@pytest.mark.slow
def test_ranks_finish_together_and_one_says_what_is_wrong(chain, tmp_path, torchrun) -> None:
    noisy, out = tmp_path / "noisy", tmp_path / "out"
    write(noisy / "long.wav", 20)
    for number in range(3):
        write(noisy / f"{number}.wav", 0.2)
    (noisy / "bad.wav").write_text("not audio")
    words = ["--ckpt-dir", str(chain), "--input-audio-dir", str(noisy), "--device", "cpu"]
    process = torchrun("src/inference.py", *words, "--output-dir", str(out), ranks=2)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "4 files restored, 1 failed" in text
    assert len(outputs(out)) == 4
    process = torchrun("src/inference.py", *words, "--output-dir", str(out), "--seed", "1", ranks=2)
    text, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert text.count("error: ") == 1
    assert "made otherwise" in text


@pytest.mark.integration
def test_a_signal_ends_the_run_and_the_next_one_goes_on(
    chain, tmp_path, start_script, command
) -> None:
    noisy, out = tmp_path / "many", tmp_path / "out"
    many_files(noisy)
    words = ["--ckpt-dir", chain, "--input-audio-dir", noisy, "--output-dir", out]
    words += ["--device", "cpu", "--chunk-seconds", "0.5", "--overlap-seconds", "0.1"]
    run = start_script("src/inference.py", *words)
    wait_until(lambda: len(outputs(out)) >= 2, 90, "a first output")
    run.send(signal.SIGTERM)
    done = run.end(30)
    assert done.returncode == 4
    assert "ended early by SIGTERM" in done.stdout
    assert [p for p in out.rglob("*") if ".tmp" in p.name] == []
    assert 2 <= len(outputs(out)) < 30
    assert command(*words) == 0
    assert len(outputs(out)) == 30


def test_a_signal_while_the_model_loads_asks_for_a_requeue(
    command, tmp_path, monkeypatch, capsys
) -> None:
    load = Restorer.from_checkpoint

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*arguments, **options)

    monkeypatch.setattr(Restorer, "from_checkpoint", interrupted)
    assert command() == 4
    assert "ended early by SIGTERM" in capsys.readouterr().out
    assert list(tmp_path.rglob(REQUEUE))
    assert not outputs(tmp_path / "out")


@pytest.mark.integration
def test_an_output_that_cannot_be_written_ends_the_run_and_keeps_what_is_done(
    chain, tmp_path, run_script, command
) -> None:
    noisy, out = tmp_path / "three", tmp_path / "out"
    write(noisy / "short.wav", 0.5)  # the longest comes first, and is a quiet one for flac
    soundfile.write(noisy / "quiet.wav", np.zeros(48000), 24000)
    write(noisy / "much.wav", 1.5)
    words = ["--ckpt-dir", chain, "--input-audio-dir", noisy, "--output-dir", out]
    words += ["--device", "cpu", "--format", "flac", "--batch-size", 1]
    limited = tmp_path / "limited.py"
    limited.write_text(
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        f"runpy.run_path({str(ROOT / 'src/inference.py')!r}, run_name='__main__')\n"
    )
    result = run_script(limited, *words, check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.count("error: ") == 1
    assert "much.flac" in result.stderr
    assert "what is done is kept, the same command goes on" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in out.iterdir() if p.suffix) == ["manifest.jsonl", "quiet.flac"]
    assert command(*words) == 0
    assert len(manifest(out)) == 3


@pytest.mark.integration
def test_two_runs_never_share_an_output_directory(
    chain, tmp_path, start_script, command, capsys
) -> None:
    noisy, out = tmp_path / "many", tmp_path / "out"
    many_files(noisy)
    words = ["--ckpt-dir", chain, "--input-audio-dir", noisy, "--output-dir", out]
    words += ["--device", "cpu", "--chunk-seconds", "0.5", "--overlap-seconds", "0.1"]
    run = start_script("src/inference.py", *words)
    wait_until(lambda: (out / ".ledger/run.json").exists(), 90, "the first run's start")
    assert command(*words) == 2
    assert "another run is writing" in capsys.readouterr().err
    run.send(signal.SIGKILL)
    run.end()
    assert command(*words) == 0
