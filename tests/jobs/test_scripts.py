"""What the job scripts would run: with stand-ins for torchrun, singularity and the schedulers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from open_miipher.config import compose_plain, compose_preprocessing, compose_synthesis

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
KINDS = ("local", "slurm", "pbs")
# For one machine, which needs no batch system.
LOCAL_ALONE = {"train_default.sh", "text_to_tts.sh", "restore_for_tts.sh"}
NAMES = sorted({path.name for path in (JOBS / "local").glob("*.sh")} - LOCAL_ALONE)
TRAININGS = ("train_stage1.sh", "train_stage2.sh", "train_stage3.sh", "finetune.sh", "resume.sh")
# Writes down how it was called, and makes the folder that it would write to.
SCRIPT_OF_MATERIAL = """#!/bin/sh
printf '%s\\n' "$@" >>"$CALLS"
while [ $# -gt 1 ]; do [ "$1" != --output-dir ] || mkdir -p "$2"; shift; done
"""
SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which(
    "shellcheck"
)


def scripts() -> list[Path]:
    """Every shell script of the repository's own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    files = [ROOT / name for name in listed.stdout.split()] or list(JOBS.rglob("*.sh"))
    return [path for path in files if path.suffix == ".sh" and path.exists()]


@pytest.mark.slow
@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not here")
def test_shellcheck_finds_nothing():
    command = [str(SHELLCHECK), "--external-sources", *map(str, scripts())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_same_names_everywhere():
    assert len(NAMES) == 14
    for kind in KINDS:
        found = {path.name for path in (JOBS / kind).iterdir()}
        assert found == {*NAMES, *(LOCAL_ALONE if kind == "local" else ())}
        for name in NAMES:
            text = (JOBS / kind / name).read_text()
            assert "source jobs/common.sh" in text
            assert len(text.splitlines()) < 30
            assert (JOBS / kind / name).stat().st_mode & 0o100


def test_every_variable_is_passed_on_by_a_pbs_chain():
    text = (JOBS / "common.sh").read_text()
    block = text.partition("--- Variables")[2].partition("NAMES=(")
    declared = re.findall(r"^([A-Z0-9_]+)=", block[0], re.M)
    named = block[2].partition(")")[0].split()
    assert declared == named


@pytest.mark.parametrize("name", TRAININGS)
def test_the_overrides_compose(bench, name):
    given = {"INIT_FROM": "output/old", "EXTRA": "trainer.max_steps=7 trainer.amp=no"}
    words = bench.run(f"local/{name}", **given)
    script = words.index("src/train.py")
    assert words[:script] == ["torchrun", "--standalone", "--nproc_per_node", "gpu",
                              "--max-restarts", "3"]  # fmt: skip
    overrides = words[script + 1 :]
    if name == "resume.sh":
        assert overrides[0] == f"trainer.ckpt_dir={bench.folder}/out"
        overrides[0] = "model=demo_feature_cleaner"
    plain = compose_plain(overrides)
    assert plain["trainer"]["max_steps"] == 7
    if name != "resume.sh":
        assert plain["trainer"]["ckpt_dir"] == "auto"
        assert plain["trainer"]["output_dir"] == str(bench.folder / "out")
        assert plain["data"]["train"]["dir_list"] == ["dataset/demo/speech/train", "/data/more"]
        assert plain["data"]["test"]["dir_list"] == []


def test_stage_3_takes_the_stages_before(bench):
    words = bench.run("local/train_stage3.sh", STAGE1_DIR="output/one", BATCH_SIZE="12")
    assert {"model.cleaner_ckpt_dir=output/one", "model.vocoder_ckpt_dir=output/stage2"} <= set(
        words
    )
    assert "trainer.batch_size=12" in words


def test_what_is_missing_is_named(bench):
    bench.run("local/train_stage1.sh", status=2, SPEECH_DIRS="")
    assert "error: set SPEECH_DIRS" in bench.output
    bench.run("local/finetune.sh", status=2)
    assert "error: set INIT_FROM" in bench.output
    bench.run("local/train_stage1.sh", status=2, WANDB_API_KEY_FILE="/nowhere")
    assert "error: WANDB_API_KEY_FILE=/nowhere cannot be read" in bench.output


def test_master_port_is_honoured(bench, after):
    words = bench.run("local/train_stage1.sh", MASTER_PORT="23456")
    assert "--standalone" not in words
    assert after(words, "--rdzv_endpoint") == "localhost:23456"
    assert after(words, "--nnodes") == "1"


def test_ports_come_from_the_job(bench):
    ids = ["1234", "1235", "1236.server2", "1237[4].server", "98765432109"]
    ports = [int(bench.source(f"job_port '{job}'")) for job in ids]
    assert len(set(ports)) == len(ports)
    assert all(1024 < port < 32768 for port in ports)  # not among those that systems hand out
    assert ports[1] - ports[0] == ports[2] - ports[1] == 1
    assert bench.source("job_port 1234", MASTER_PORT="999") == "999"


def test_the_image_sees_every_folder(bench, after, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    more = {"IMAGE": "my.sif", "SPEECH_DIRS": str(data), "NOISE_DIRS": "dataset/demo/noise"}
    words = bench.run("local/train_stage1.sh", **more)
    assert words[:3] == ["singularity", "exec", "--nv"]
    binds = {words[i + 1] for i, word in enumerate(words) if word == "--bind"}
    assert {str(ROOT), str(data), str(ROOT / "dataset/demo/noise"), str(tmp_path / "out")} <= binds
    assert after(words, "--pwd") == str(ROOT)
    assert words.index("my.sif") < words.index("torchrun") < words.index("src/train.py")


def test_secrets_come_from_files_and_stay_off_the_command_line(bench, tmp_path):
    for name in ("wandb", "hub"):
        (tmp_path / name).write_text(f"{name}-private\n")
    files = {"WANDB_API_KEY_FILE": str(tmp_path / "wandb"), "HF_TOKEN_FILE": str(tmp_path / "hub")}
    words = bench.run("local/train_stage1.sh", IMAGE="my.sif", **files)
    assert bench.secrets.read_text() == "key wandb-private token hub-private\n"
    assert "private" not in " ".join(words) + bench.output


def test_every_folder_is_indexed(bench):
    words = bench.run("local/make_index.sh", NOISE_DIRS="/data/noise")
    roots = [words[i + 1] for i, word in enumerate(words) if word == "--root-dir"]
    assert roots == ["dataset/demo/speech/train", "/data/more", "/data/noise"]


def test_an_array_restores_every_shard_and_fails_if_one_does(bench):
    variables = {"INPUT_DIR": "noisy", "CKPT_DIR": "chain", "NUM_SHARDS": "3"}
    words = bench.run("local/restore_array.sh", **variables)
    assert [words[i + 1] for i, w in enumerate(words) if w == "--shard-id"] == ["0", "1", "2"]
    assert words.count("--num-shards") == 3
    assert words[words.index("--max-restarts") + 1] == "0"
    bench.program(
        "torchrun", '#!/bin/sh\necho "$*" >>"$CALLS"; case "$*" in *"--shard-id 1"*) exit 1;; esac'
    )
    # refused before it began: there is nothing that src/status.py could tell of
    assert len(bench.run("local/restore_array.sh", status=2, **variables)) == 3
    assert len(bench.run("local/restore_array.sh", status=2, SHARDS="1 2", **variables)) == 2
    words = bench.run("local/restore.sh", **variables)
    assert "--shard-id" not in " ".join(words)


def test_texts_are_spoken_by_array_tasks_too(bench):
    given = {"TEXTS": "user/texts", "EXTRA": "tts.batch_size=64 codec=demo"}
    for script, task in (("synthesize.sh", None), ("synthesize_array.sh", 1)):
        shards = {} if task is None else {"NUM_SHARDS": "2", "SHARDS": "1"}
        words = bench.run(f"local/{script}", **given, **shards)
        overrides = words[words.index("src/synthesize.py") + 1 :]
        config = compose_synthesis(overrides)
        config.check()
        assert (config.dataset.name, config.folder) == ("user/texts", bench.folder / "out")
        assert (config.tts.batch_size, config.processing.shard_id) == (64, task)
        assert words[words.index("--max-restarts") + 1] == "0"
    bench.run("local/synthesize.sh", status=2)
    assert "error: set TEXTS" in bench.output


def test_speech_is_tokenised_by_array_tasks_too(bench, after):
    words = bench.run("local/tokenize.sh", INPUT_DIR="speech", EXTRA="--codec demo")
    assert after(words, "src/tokenize_audio.py") == "--input-audio-dir"
    assert (after(words, "--codec"), "--ckpt-dir" in words) == ("demo", False)
    words = bench.run(
        "local/tokenize_array.sh", INPUT_MANIFEST="a.jsonl", NUM_SHARDS="3", SHARDS="2"
    )
    assert (after(words, "--num-shards"), after(words, "--shard-id")) == ("3", "2")
    bench.run("local/tokenize.sh", status=2)
    assert "error: set INPUT_DIR" in bench.output


@pytest.mark.parametrize("status", [2, 3, 4])
@pytest.mark.parametrize("script", ["restore.sh", "restore_array.sh"])
def test_a_corpus_run_s_own_status_is_passed_on(bench, script, status):
    (bench.folder / "out/.ledger").mkdir(parents=True)
    bench.program("torchrun", "#!/bin/sh\nexit 1\n")
    bench.program("python", f'#!/bin/sh\necho "$*" >>"$CALLS"; exit {status}\n')
    given = {"INPUT_DIR": "noisy", "CKPT_DIR": "chain", "NUM_SHARDS": "1"}
    calls = bench.run(f"local/{script}", status=status, **given)
    task = " --shard-id 0" if "array" in script else ""
    assert calls == [f"src/status.py {bench.folder}/out --exit-status{task}"]
    bench.program("torchrun", "#!/bin/sh\nexit 0\n")
    assert bench.run(f"local/{script}", **given) == []


def test_the_worst_status_of_both_splits_is_passed_on(bench):
    for split in ("train", "val"):
        (bench.folder / f"out/w/{split}/0/.ledger").mkdir(parents=True)
    bench.program("torchrun", "#!/bin/sh\nexit 1\n")
    bench.program("python", '#!/bin/sh\ncase "$2" in */train/0) exit 3;; esac\n')
    bench.run("local/preprocess.sh", status=3, WRITER_NAME="w")


def test_shards_and_manifests_are_restored_too(bench, after):
    given = {"CKPT_DIR": "chain"}
    words = bench.run("local/restore.sh", INPUT_SHARDS="s3://b/{0..9}.tar x/*.tar", **given)
    place = words.index("--input-shards")
    assert words[place + 1 : place + 4] == ["s3://b/{0..9}.tar", "x/*.tar", "--output-dir"]
    assert "--input-audio-dir" not in words
    words = bench.run("local/restore.sh", INPUT_MANIFEST="a.jsonl", **given)
    assert after(words, "--input-manifest") == "a.jsonl"
    bench.run("local/restore.sh", status=2, **given)
    assert "error: set INPUT_DIR" in bench.output


@pytest.mark.parametrize(
    ("smi", "visible", "num"),
    [("echo GPU 0: x", None, "gpu"), ("echo GPU 0: x", "", "1"), ("exit 9", None, "1")],
)
def test_jobs_take_the_cpu_where_there_is_no_gpu(bench, after, smi, visible, num):
    if list(Path("/dev").glob("nvidia[0-9]*")) and smi == "exit 9":
        pytest.skip("this machine has a GPU")
    bench.program("nvidia-smi", f"#!/bin/sh\n{smi}\n")
    given = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    words = bench.run("local/train_stage1.sh", **given)
    assert after(words, "--nproc_per_node") == num
    assert ("no GPU here" in bench.output) == (num == "1")
    words = bench.run("local/train_stage1.sh", NPROC="3", **given)
    assert after(words, "--nproc_per_node") == "3"


def test_names_of_any_letters_reach_the_configuration(bench):
    """They went to Hydra without quotes, which takes few letters."""
    names = [
        "/data/sprache_日本",
        "/data/lr=1e-4",
        '/data/a"b\\c',
        "/data/x#(1)[2],3",
        "/data/Müller's",
    ]
    words = bench.run(
        "local/train_stage3.sh",
        SPEECH_DIRS=" ".join(names),
        TEST_DIRS="müll",
        OUTPUT_DIR=f"{bench.folder}/lr=1e-4 日本",
        STAGE1_DIR="output/ä",
        STAGE2_DIR="output/b",
    )
    plain = compose_plain(words[words.index("src/train.py") + 1 :])
    assert plain["data"]["train"]["dir_list"] == names
    assert plain["data"]["test"]["dir_list"] == ["müll"]
    assert plain["trainer"]["output_dir"] == f"{bench.folder}/lr=1e-4 日本"
    model = plain["model"]
    assert (model["cleaner_ckpt_dir"], model["vocoder_ckpt_dir"]) == ("output/ä", "output/b")
    words = bench.run("local/resume.sh", OUTPUT_DIR=f"{bench.folder}/lr=1e-4")
    assert f'trainer.ckpt_dir="{bench.folder}/lr=1e-4"' in words


def test_no_home_is_needed(bench):
    del bench.environment["HOME"]
    assert "src/train.py" in bench.run("local/train_stage1.sh")


PREPROCESSING = {"WRITER_NAME": "w", "NUM_SHARDS": "3", "NUM_WRITERS": "5"}


def test_preprocessing_composes(bench, after):
    words = bench.run(
        "local/preprocess.sh",
        SPEECH_URLS="s3://bucket/a-{000..009}.tar /data/b/*.tar",
        TEST_DIRS="/data/test",
        EXTRA="preprocess.job_id=second data.peak=0.5",
        **PREPROCESSING,
    )
    assert after(words, "--nproc_per_node") == "1"
    assert after(words, "--max-restarts") == "0"
    overrides = words[words.index("src/preprocess.py") + 1 :]
    config = compose_preprocessing([word for word in overrides if "=" in word])
    config.check()
    assert config.data.train.dir_list == ["dataset/demo/speech/train", "/data/more"]
    assert config.data.train.urls == ["s3://bucket/a-{000..009}.tar", "/data/b/*.tar"]
    assert config.data.test.dir_list == ["/data/test"]
    assert config.data.test.urls == []
    assert (config.data.sample_rate, config.data.peak) == (48000, 0.5)
    options = config.options
    assert (options.writer_name, options.num_writers, options.array_task) == ("w", 5, None)
    assert bench.run("local/preprocess.sh", status=2) == []
    assert "error: set WRITER_NAME" in bench.output


def test_a_preprocessing_array_does_every_part(bench):
    words = bench.run("local/preprocess_array.sh", **PREPROCESSING)
    parts = [f"preprocess.shard_id={k}" for k in range(3)]
    assert [word for word in words if word.startswith("preprocess.shard_id=")] == parts
    assert words.count("preprocess.num_shards=3") == 3


def test_the_image_sees_the_folders_of_patterns(bench, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    (tmp_path / "raw/b/x.tar").touch()
    raw = tmp_path / "raw"
    urls = f"{raw}/a/x-{{00..10}}.tar {raw}/b/x.tar {raw}/c s3://bucket/x.tar"
    words = bench.run("local/preprocess.sh", IMAGE="my.sif", SPEECH_URLS=urls, **PREPROCESSING)
    binds = {words[i + 1] for i, word in enumerate(words) if word == "--bind"}
    assert {str(raw / name) for name in ("a", "b", "c")} <= binds


def test_the_default_model_is_trained_on_a_split_that_is_made_once(bench, tmp_path):
    bench.run("local/train_default.sh", status=2)
    assert "give three arguments" in bench.output
    bench.program("python", SCRIPT_OF_MATERIAL)
    arguments = ["/data/a /data/b", "/data/noise", "/data/rooms"]
    words = bench.run("local/train_default.sh", *arguments)
    out = bench.folder / "out"
    first = words.index("dataset/script/split_by_speaker.py")
    assert words[first + 1 : first + 4] == ["--speech-dirs", "/data/a", "/data/b"]
    assert words.count("dataset/script/make_rir_bank.py") == 2
    overrides = words[words.index("src/train.py") + 1 :]
    plain = compose_plain(overrides)
    assert plain["model"]["recipe"] == "waveform_cleaner"
    assert plain["data"]["train"]["dir_list"] == [f"{out}/material/train/speech"]
    assert plain["data"]["test"]["rir_dir_list"][1] == f"{out}/material/test/rooms"
    assert plain["trainer"]["ckpt_dir"] == "auto"
    again = bench.run("local/train_default.sh", *arguments)
    assert again == words[words.index("torchrun") :]
