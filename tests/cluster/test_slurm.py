"""The job scripts in a real SLURM on this machine: warned, saved, queued again, finished."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
START = Path(__file__).with_name("slurm.sh")
# Two nodes of a core each; the names of the nodes are not known to the network here.
RESOURCES = ["--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0", "--time=4"]


class Slurm:
    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **settings,
            "PATH": f"{settings['PATH']}:/usr/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",
        }

    def run(self, *command: str, **more: str) -> str:
        environment = {**self.environment, **more}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *options: str, output_dir: Path) -> str:
        log = f"--output={self.folder}/job-%j.log"
        job = ["sbatch", "--parsable", *RESOURCES, log, *options, "jobs/slurm/train_stage1.sh"]
        return self.run(*job, OUTPUT_DIR=str(output_dir)).strip()

    def job(self, job: str) -> dict[str, str]:
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, job: str) -> str:
        file = self.folder / f"job-{job}.log"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, settings, needs) -> Iterator[Slurm]:
    needs("slurmctld", "slurmd", "munged", "runuser")
    # Slow enough not to end before the warning, which comes 5 s after the start.
    extra = settings["EXTRA"].replace("crop_seconds=0.5", "crop_seconds=1.0")
    settings = {**settings, "BATCH_SIZE": "8", "EXTRA": extra.replace("=200", "=300")}
    folder = tmp_path_factory.mktemp("slurm")
    for parent in folder.parents[:3]:
        if parent.name.startswith(("popen-", "pytest-")):
            parent.chmod(0o755)  # munge, who is not root, has to get there
    try:
        subprocess.run([START, "start", folder], check=True, timeout=60)
        yield Slurm(folder, settings)
    finally:
        subprocess.run([START, "stop", folder], check=True, timeout=60)


def test_two_tasks_are_warned_save_requeue_and_finish(slurm, tmp_path, wait_until, end_of):
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    job = slurm.submit("--signal=B:TERM@235", output_dir=broken)  # as soon as it trains

    def said() -> str:
        return slurm.log(job) + str(slurm.job(job))

    wait_until(lambda: slurm.job(job)["Restarts"] == "1", said)
    wait_until(lambda: slurm.job(job)["JobState"] == "PENDING", said)
    assert (broken / "REQUEUE").exists()
    assert slurm.log(job).count("stopped by a signal") == 1, said()
    time.sleep(10)  # SLURM waits two minutes, for the end of the first script to be told to it
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=20", "StartTime=now")
    wait_until(lambda: slurm.job(job)["JobState"] in ("COMPLETED", "FAILED"), said)
    assert slurm.job(job)["JobState"] == "COMPLETED", said()
    time.sleep(2)  # a job that finished stays finished
    assert slurm.job(job)["Restarts"] == "1"
    assert not (broken / "REQUEUE").exists()
    assert "resumed from" in slurm.log(job)
    local = {**slurm.environment, "NPROC": "2", "OUTPUT_DIR": str(unbroken)}
    local.pop("MASTER_ADDR")
    subprocess.run([ROOT / "jobs/local/train_stage1.sh"], env=local, check=True, timeout=300)
    assert end_of(broken) == end_of(unbroken)
    assert end_of(unbroken)[0][-1]["step"] == 300


def test_a_job_that_failed_or_was_cancelled_is_not_queued_again(slurm, tmp_path, wait_until):
    failed = slurm.submit("--export=ALL,BATCH_SIZE=3", output_dir=tmp_path / "failed")
    wait_until(lambda: slurm.job(failed)["JobState"] == "FAILED", lambda: slurm.log(failed))
    assert "error: trainer.batch_size=3 does not divide by 2 ranks" in slurm.log(failed)
    run = tmp_path / "cancelled"
    endless = slurm.environment["EXTRA"].replace("max_steps=300", "max_steps=1000000")
    cancelled = slurm.submit(f"--export=ALL,EXTRA={endless}", output_dir=run)
    wait_until(lambda: (run / "metrics.jsonl").exists(), lambda: slurm.log(cancelled))
    slurm.run("scancel", cancelled)
    wait_until(
        lambda: slurm.job(cancelled)["JobState"] == "CANCELLED", lambda: slurm.log(cancelled)
    )
    time.sleep(2)
    for job in (failed, cancelled):
        assert slurm.job(job)["Restarts"] == "0"
