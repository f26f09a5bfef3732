"""Job scripts that really train and restore, at a tiny size, with a stand-in for PBS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
# What a real qsub keeps: the script, and the named variables with their values.
QSUB = """#!/bin/bash
[[ $1 == -v && $# == 3 ]] || exit 1
for name in ${2//,/ }; do printf '%s=%s\\0' "$name" "${!name}"; done >"$QUEUE/variables"
echo "$3" >>"$QUEUE/scripts"
"""
QSTAT = """#!/bin/sh
echo "Job Id: $2"
echo "    Resource_List.select = 2"
echo "    Resource_List.walltime = 01:00:00"
"""
# As Apptainer without setuid: a process of its own serves the image, and must outlive the workers.
SINGULARITY = """#!/bin/bash
while [[ $1 != my.sif ]]; do shift; done
shift
sleep 600 &
server=$!
"$@"
status=$?
kill $server 2>/dev/null || echo "the image's server died"
exit $status
"""
SSH = """#!/bin/sh
shift
exec "$@"
"""


PROGRAMS = {"qsub": QSUB, "qstat": QSTAT, "ssh": SSH, "singularity": SINGULARITY}


class Pbs:
    """Runs scripts as PBS does: a copy of them, in the user's home, with PBS's variables."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder, self.queue = folder, folder / "queue"
        for name in ("queue", "home", "bin"):
            (folder / name).mkdir()
        for name, text in PROGRAMS.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        nodes = folder / "nodes"
        nodes.write_text("127.0.0.1\n127.0.0.1\nlocalhost\nlocalhost\n")  # two cores on each
        self.environment = {
            "PATH": f"{folder / 'bin'}:{path}",
            "HOME": str(folder / "home"),
            "PBS_O_WORKDIR": str(ROOT),
            "PBS_NODEFILE": str(nodes),
            "QUEUE": str(self.queue),
        }

    def run(self, script: str, job: str, **variables: str) -> subprocess.CompletedProcess:
        spooled = self.folder / "script"
        spooled.write_text((ROOT / script).read_text())
        return subprocess.run(
            ["bash", str(spooled)],
            cwd=self.folder / "home",
            env={**self.environment, "PBS_JOBID": job, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def next(self) -> tuple[list[str], dict[str, str]]:
        """Every script submitted so far, and the variables of the last."""
        words = (self.queue / "variables").read_text().split("\0")[:-1]
        return (self.queue / "scripts").read_text().split(), dict(w.split("=", 1) for w in words)


@pytest.fixture
def variables() -> dict[str, str]:
    overrides = {
        "model.cleaner.num_blocks": 1,
        "data.crop_seconds": 1.0,
        "data.test.num_clips": 2,
        "trainer.device": "cpu",
        "trainer.num_workers": 0,
        "trainer.max_steps": 200,
        "trainer.log_every": 1,
        "trainer.save_every": 50,
        "trainer.validate_every": 100,
        "trainer.sample_every": 0,
    }
    return {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "VIRTUAL_ENV": str(Path(sys.executable).parent.parent),
        "MODEL": "demo_feature_cleaner",
        "SPEECH_DIRS": "dataset/demo/speech/train",
        "TEST_DIRS": "dataset/demo/speech/test",
        "BATCH_SIZE": "8",
        "EXTRA": " ".join(f"{key}={value}" for key, value in overrides.items()),
    }


@pytest.fixture
def path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_a_pbs_job_on_two_hosts_submits_its_successor_and_finishes(
    tmp_path, variables, path, end_of
):
    pbs = Pbs(tmp_path, path)
    run, whole = tmp_path / "run", tmp_path / "whole"
    secret = tmp_path / "key"
    secret.write_text("0123456789abcdef0123456789abcdef01234567")
    given = {"NPROC": "1", "OUTPUT_DIR": str(run), "WANDB_API_KEY_FILE": str(secret)}
    given["IMAGE"] = "my.sif"
    first = pbs.run("jobs/pbs/train_stage1.sh", "4711.server", STOP_AFTER="1", **variables, **given)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "stopped by a signal" in first.stdout
    assert "server died" not in first.stdout
    assert (run / "REQUEUE").exists()
    submitted, kept = pbs.next()
    assert submitted == ["jobs/pbs/train_stage1.sh"]
    assert kept["EXTRA"] == variables["EXTRA"]
    assert "0123456789abcdef" not in "".join(kept.values())
    environment = {key: variables[key] for key in ("OMP_NUM_THREADS", "VIRTUAL_ENV")}
    second = pbs.run(submitted[0], "4712.server", **{**environment, **kept})
    assert second.returncode == 0, second.stdout + second.stderr
    assert "resumed from" in second.stdout
    assert "step 200: done" in second.stdout
    assert pbs.next()[0] == submitted  # a job that finished submits no other
    assert not (run / "REQUEUE").exists()
    local = {**variables, "NPROC": "2", "OUTPUT_DIR": str(whole), "PATH": path, "HOME": path}
    subprocess.run([ROOT / "jobs/local/train_stage1.sh"], env=local, check=True, timeout=300)
    assert end_of(run) == end_of(whole)


def test_a_pbs_job_that_fails_submits_no_other(tmp_path, variables, path):
    pbs = Pbs(tmp_path, path)
    given = {**variables, "NPROC": "1", "OUTPUT_DIR": str(tmp_path / "run"), "BATCH_SIZE": "3"}
    done = pbs.run("jobs/pbs/train_stage1.sh", "4713.server", **given, MAX_RESTARTS="0")
    assert done.returncode != 0
    assert "error: trainer.batch_size=3 does not divide by 2 ranks" in done.stderr
    assert not (pbs.queue / "scripts").exists()


def test_local_scripts_index_train_resume_and_fine_tune(tmp_path, variables, path):
    short = variables["EXTRA"].replace("max_steps=200", "max_steps=2")
    base = {**variables, "PATH": path, "HOME": str(tmp_path), "NPROC": "1", "EXTRA": short}

    def run(script: str, **more: str) -> str:
        done = subprocess.run(
            [ROOT / "jobs/local" / script],
            env={**base, **more}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    speech = tmp_path / "speech"
    speech.mkdir()
    for file in sorted((ROOT / "dataset/demo/speech/train").glob("*.flac"))[:3]:
        (speech / file.name).write_bytes(file.read_bytes())
    run("make_index.sh", SPEECH_DIRS=str(speech), TEST_DIRS="")
    assert len((speech / "metadata.csv").read_text().splitlines()) == 4
    assert "step 2: done" in run("train_stage1.sh", OUTPUT_DIR=str(tmp_path / "one"))
    more = {"OUTPUT_DIR": str(tmp_path / "one"), "EXTRA": "trainer.max_steps=3"}
    assert "step 3: done" in run("resume.sh", **more)
    tuned = {"OUTPUT_DIR": str(tmp_path / "two"), "INIT_FROM": str(tmp_path / "one")}
    assert "step 2: done" in run("finetune.sh", **tuned)
    assert "step 2: nothing to do" in run("finetune.sh", **tuned)  # given again: it is done


def test_a_local_array_restores_everything_once(tmp_path, variables, path):
    given = {
        **variables,
        "PATH": path,
        "HOME": str(tmp_path),
        "NPROC": "1",
        "EXTRA": "--device cpu",
        "CKPT_DIR": "pretrained/default",
        "INPUT_DIR": "dataset/demo/speech/test",
        "OUTPUT_DIR": str(tmp_path / "restored"),
        "NUM_SHARDS": "2",
    }
    subprocess.run([ROOT / "jobs/local/restore_array.sh"], env=given, check=True, timeout=300)
    restored = sorted(path.stem for path in (tmp_path / "restored").glob("*.wav"))
    assert restored == sorted(p.stem for p in (ROOT / "dataset/demo/speech/test").glob("*.flac"))
    assert not list((tmp_path / "restored").rglob("REQUEUE"))


def test_a_local_array_preprocesses_everything_once(tmp_path, variables, path):
    given = {
        **variables,
        "PATH": path,
        "HOME": str(tmp_path),
        "NUM_WRITERS": "1",
        "EXTRA": "preprocess.shard_maxcount=1 data.sample_seconds=5",
        "DATA": "webdataset_preprocess_24k",
        "WRITER_NAME": "demo",
        "OUTPUT_DIR": str(tmp_path / "shards"),
        "NUM_SHARDS": "2",
    }
    for _ in range(2):  # given again: it is done
        done = subprocess.run(
            [ROOT / "jobs/local/preprocess_array.sh"],
            env=given, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "shards/demo/train/0/summary.json").read_text())
    assert summary["files"] == len(list((ROOT / "dataset/demo/speech/train").glob("*.flac")))
    assert summary["shards"] == len(list((tmp_path / "shards/demo/train/0").glob("*.tar")))
    assert (tmp_path / "shards/demo/val/0/summary.json").exists()
    assert not list((tmp_path / "shards").rglob("REQUEUE"))
