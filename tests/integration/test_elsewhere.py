"""Restoring, and the doctor, where there is none of what only Linux, or only Unix, has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from speech import voice, write_wav

ROOT = Path(__file__).resolve().parents[2]

# Packages of others are imported before all this goes: they have their own builds elsewhere.
PROGRAM = """\
import builtins, ctypes, io, os, runpy, signal, sys, types
import multiprocessing.resource_tracker, platform, shutil, socket, tempfile, torch, torchaudio
import safetensors.torch, scipy.signal, soundfile, soxr, torch.distributed, tqdm, wandb, yaml

def disk_usage(path, statvfs=os.statvfs):  # the standard library has one for each system
    room = statvfs(path)
    return types.SimpleNamespace(free=room.f_bavail * room.f_frsize)

shutil.disk_usage = disk_usage
tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # there, too
for name in ("fcntl", "resource", "pwd", "grp", "termios", "posix", "_posixsubprocess"):
    sys.modules[name] = None  # importing it is an ImportError
GONE = {
    os: [
        *("fork", "forkpty", "getgid", "geteuid", "getpgid", "getuid", "killpg", "mkfifo", "nice"),
        *("posix_fadvise", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "setsid"),
        *("statvfs", "fstatvfs", "uname", "chown", "getloadavg", "sysconf", "pread", "pwrite"),
        *("sendfile", "sync", "openpty", "O_DIRECTORY", "O_NOFOLLOW", "O_TMPFILE", "O_CLOEXEC"),
    ],
    signal: [
        *("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGKILL", "SIGCHLD", "SIGALRM", "alarm"),
        *("pthread_sigmask", "sigwaitinfo", "sigwait", "pthread_kill", "SIG_BLOCK", "SIG_SETMASK"),
    ],
}
for module, names in GONE.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "elsewhere"

class NoLibrary:
    def __init__(self, name, *_, **__):
        raise OSError(f"there is no {name} here")

ctypes.CDLL = NoLibrary

def without(function):
    def call(path, *rest, **named):
        if str(path).startswith(("/proc", "/sys", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *rest, **named)
    return call

builtins.open = io.open = without(open)
os.open, os.stat, os.listdir, os.scandir = map(without, (os.open, os.stat, os.listdir, os.scandir))

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT / script), *map(str, words)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.integration
def test_restoring_needs_nothing_that_only_linux_has(run_script, tmp_path: Path) -> None:
    for number in range(2):
        write_wav(tmp_path / f"noisy/a/{number}.wav", voice(number, 1.1, 16000), 16000)
    here = ["--input-audio-dir", tmp_path / "noisy", "--output-dir", tmp_path / "here"]
    run_script("src/inference.py", *here)
    first = run("src/inference.py", tmp_path / "noisy", tmp_path / "there")
    assert "2 files restored" in first.stdout
    assert first.stderr.count("this system has no file locks") == 1
    for number in range(2):
        made = [tmp_path / where / f"a/{number}.wav" for where in ("here", "there")]
        assert made[0].read_bytes() == made[1].read_bytes()
    one = run("src/inference.py", tmp_path / "noisy/a/0.wav", tmp_path / "one.flac")
    assert "file locks" not in one.stderr
    assert (tmp_path / "one.flac").is_file()


@pytest.mark.integration
def test_the_doctor_needs_nothing_that_only_linux_has() -> None:
    said = run("src/doctor.py").stdout
    assert "ok      machine" in said
    assert "Training and restoring run here" in said
    assert "open files" not in said
