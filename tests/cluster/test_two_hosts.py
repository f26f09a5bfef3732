"""Two hosts, a torchrun on each: the link is cut, and a host is lost and replaced."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("two_hosts.sh")
LOST = "lost contact with the other ranks, so it stops"


class Hosts:
    def __init__(self, name: str, settings: dict[str, str], log_dir: Path) -> None:
        self.name, self.settings, self.log_dir = name, settings, log_dir
        self.number = 0

    def do(self, action: str) -> None:
        subprocess.run([SCRIPT, action, self.name], check=True, timeout=30)

    def train(self, host: str, output_dir: Path, **more: str) -> tuple[subprocess.Popen, Path]:
        """Start torchrun on a host; returns it and its log."""
        self.number += 1
        log = self.log_dir / f"{self.number}-{host}.log"
        settings = self.settings
        overrides = [
            f"model={settings['MODEL']}",
            f"data.train.dir_list=[{settings['SPEECH_DIRS']}]",
            f"data.train.noise_dir_list=[{settings['NOISE_DIRS']}]",
            f"data.test.dir_list=[{settings['TEST_DIRS']}]",
            f"trainer.batch_size={settings['BATCH_SIZE']}",
            f"trainer.output_dir={output_dir}",
            "trainer.ckpt_dir=auto",
            "trainer.timeout_minutes=0.25",
            *settings["EXTRA"].split(),
        ]
        command = [SCRIPT, "train", self.name, host, "src/train.py", *overrides]
        with open(log, "w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**settings, **more}, stdout=output, stderr=output
            )
        return process, log

    def processes(self, host: str) -> list[int]:
        command = ["ip", "netns", "pids", f"{self.name}-{host.lower()}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(pid) for pid in done.stdout.split()]


@pytest.fixture
def hosts(tmp_path, settings, needs) -> Iterator[Hosts]:
    needs("ip")
    hosts = Hosts(f"om{os.getpid()}", settings, tmp_path)
    try:
        hosts.do("start")
        yield hosts
    finally:
        hosts.do("stop")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, settings, needs, end_of):
    """The end of the same training on one host with two processes."""
    needs("ip")
    output_dir = tmp_path_factory.mktemp("unbroken") / "run"
    variables = {**settings, "NPROC": "2", "OUTPUT_DIR": str(output_dir)}
    subprocess.run([ROOT / "jobs/local/train_stage1.sh"], env=variables, check=True, timeout=300)
    return end_of(output_dir)


def has_trained(output_dir: Path, steps: int) -> bool:
    file = output_dir / "metrics.jsonl"
    return file.exists() and len(file.read_text().splitlines()) >= steps


def test_a_cut_link_stops_both_sides_and_the_run_goes_on_from_its_checkpoint(
    hosts, tmp_path, unbroken, wait_until, end_of
):
    run = tmp_path / "run"
    started = [hosts.train(host, run) for host in "AB"]

    def said() -> str:
        return "\n".join(log.read_text() for _, log in started)

    wait_until(lambda: has_trained(run, 25), said)
    hosts.do("cut")
    cut = time.monotonic()
    for host, (process, log) in zip("AB", started, strict=True):
        assert process.wait(timeout=120) != 0, said()
        assert LOST in log.read_text()  # which host gets which rank is the rendezvous' choice
        print(f"{host}'s torchrun ended {time.monotonic() - cut:.0f} s after the cut")
    assert hosts.processes("A") == hosts.processes("B") == []
    hosts.do("join")
    started = [hosts.train(host, run) for host in "AB"]
    for process, _ in started:
        assert process.wait(timeout=300) == 0, said()
    assert "resumed from" in started[0][1].read_text()
    assert end_of(run) == unbroken


def test_a_lost_and_replaced_host_continues(hosts, tmp_path, unbroken, wait_until, end_of):
    run = tmp_path / "run"
    first, lost = (hosts.train(host, run, MAX_RESTARTS="3") for host in "AB")
    wait_until(lambda: has_trained(run, 25), first[1].read_text)
    for pid in hosts.processes("B"):
        os.kill(pid, signal.SIGKILL)
    assert lost[0].wait(timeout=30) == -signal.SIGKILL
    replacement = hosts.train("B", run, MAX_RESTARTS="3")
    for process, log in (first, replacement):
        assert process.wait(timeout=300) == 0, log.read_text()
    assert LOST in first[1].read_text()
    assert end_of(run) == unbroken
