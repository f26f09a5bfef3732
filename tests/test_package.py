"""The wheel, installed where no checkout is, at work in another folder without a network."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest
import tiny_codec
import tiny_diffusion
import torch
from hub import Hub
from public_wavenet import Public
from speech import voice, write_wav

from open_miipher import __version__
from open_miipher.base import shipped
from open_miipher.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    script: re.search(r'^    run\("(\w+)"\)', script.read_text(), re.M)
    for script in (*sorted(ROOT.glob("src/*.py")), ROOT / "dataset/script/make_metadata_csv.py")
}
Command = Callable[..., subprocess.CompletedProcess[bytes]]
PROGRAM = ["open-miipher"]
TORCHRUN = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_every_script_calls_a_command_and_is_named_by_it_where_none_is(monkeypatch) -> None:
    monkeypatch.setattr(shipped, "IS_INSTALLED", True)
    for script, called in SCRIPTS.items():
        assert called is not None, script
        assert called[1] in COMMANDS
        path = script.relative_to(ROOT)
        assert shipped.as_called(f"see python {path} OUT") == f"see open-miipher {called[1]} OUT"
        torchrun = "torchrun --standalone --nproc_per_node 2"
        as_module = f"{torchrun} -m open_miipher.commands {called[1]}"
        assert shipped.as_called(f"{torchrun} {path}") == as_module
    assert shipped.as_called("pip install '.[app]'") == "pip install 'open-miipher-2[app]'"
    other = "python dataset/script/make_mels.py"
    assert shipped.as_called(other) == other
    users = "/home/me/src/train.py is no audio"
    assert shipped.as_called(users) == users


def test_a_checkout_names_its_scripts() -> None:
    assert shipped.as_called("python src/status.py") == "python src/status.py"
    assert shipped.shipped("config") == ROOT / "config"


def test_the_import_is_quick_and_brings_the_restorer_when_it_is_asked_for() -> None:
    program = (
        "import sys, open_miipher; assert 'torch' not in sys.modules, 'slow';"
        "assert not hasattr(open_miipher, 'Restorers');"
        "from open_miipher import Restorer; from open_miipher.restoration import Restorer as same;"
        "assert Restorer is same"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 0, "usage: open-miipher COMMAND"),
        (["--version"], 0, f"open-miipher {__version__}"),
        (["restore", "-h"], 0, "usage: open-miipher restore [-h]"),
        (["resotre"], 2, "error: resotre is no command of open-miipher; did you mean restore?"),
        (["x"], 2, "error: x is no command of open-miipher; open-miipher -h lists them"),
        (["status"], 2, "error: the following arguments are required: OUT; -h explains the "),
        (["restore", "--in", "x"], 2, "error: ambiguous option: --in could match --input-audio"),
    ],
)
def test_the_program_lists_and_names_its_commands(words, status, said) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "open_miipher.commands", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert (done.stderr if status else done.stdout).startswith(said)
    assert not status or len(done.stderr.splitlines()) == 1
    if not words:
        assert all(f"  {name}" in done.stdout for name in COMMANDS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of a virtual environment with the wheel, and what it needs from this one."""
    source = tmp_path_factory.mktemp("source")
    for name in ("src", "config", "pretrained"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md"):
        shutil.copy2(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", source, source]
    subprocess.run(build, check=True)
    (wheel,) = source.glob("*.whl")
    root = tmp_path_factory.mktemp("installed")
    venv.create(root, symlinks=True)
    there = ["--python", root / "bin/python", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, *there, wheel], check=True)
    (site,) = root.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    return site


@pytest.fixture
def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    """The variables of a shell in which the program is installed, and nothing of a checkout."""
    return {
        "PATH": f"{site.parents[2] / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def command(environment: dict[str, str], tmp_path: Path) -> Command:
    """Return a function that runs the program in `tmp_path`, without a network if that can be."""
    can = os.getuid() == 0 and shutil.which("unshare") and shutil.which("ip")
    lonely = ["unshare", "--net", "sh", "-c", 'ip link set lo up; "$@"', "sh"] if can else []

    def run(
        *words: object, check: bool = True, stdin: bytes = b"", program: Sequence[str] = PROGRAM
    ) -> subprocess.CompletedProcess:
        line = [*lonely, *program, *map(str, words)]
        done = subprocess.run(
            line, cwd=tmp_path, env=environment, input=stdin, capture_output=True, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.mark.slow
def test_the_wheel_holds_one_package_with_all_that_comes_with_the_project(site: Path) -> None:
    (record,) = site.glob("open_miipher_2-*.dist-info/RECORD")
    files = [line.split(",")[0] for line in record.read_text().splitlines()]
    tops = {file.split("/")[0] for file in files}
    assert tops == {"open_miipher", record.parent.name, ".."}  # and bin/open-miipher
    held = {file.partition("/shipped/")[2] for file in files if "/shipped/" in file}
    tracked = subprocess.run(
        ["git", "ls-files", "config", "pretrained/default", "pretrained/codec"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert held == set(tracked.stdout.split())
    pages = {path.name for path in (ROOT / "src/open_miipher/evaluation/pages").iterdir()}
    assert {file.rpartition("/pages/")[2] for file in files if "/pages/" in file} == pages


@pytest.mark.slow
def test_recordings_are_restored_where_there_is_no_checkout(command, run_script, tmp_path) -> None:
    assert command("--version").stdout.decode() == f"open-miipher {__version__}\n"
    for number in range(2):
        write_wav(tmp_path / f"noisy/a/{number}.wav", voice(number, 1.1), 24000)
    write_wav(tmp_path / "one/0.wav", voice(2, 0.9, 16000), 16000)
    for name in ("noisy", "one"):
        words = ["--input-audio-dir", tmp_path / name, "--output-dir", tmp_path / f"{name}-script"]
        run_script("src/inference.py", *words)
    assert b"2 files restored" in command("restore", "noisy", "noisy-clean").stdout
    command("restore", "one/0.wav", "0.wav")
    piped = command("restore", "-", "-", stdin=(tmp_path / "one/0.wav").read_bytes()).stdout
    for number in range(2):
        script, program = (tmp_path / f"noisy-{end}/a/{number}.wav" for end in ("script", "clean"))
        assert program.read_bytes() == script.read_bytes()
    assert piped == (tmp_path / "0.wav").read_bytes()
    assert piped == (tmp_path / "one-script/0.wav").read_bytes()
    assert b"2 of 2 done" in command("status", "noisy-clean").stdout
    ranks = [*TORCHRUN, "-m", "open_miipher.commands"]
    assert b"2 files restored" in command("restore", "noisy", "ranks", program=ranks).stdout
    refused = command("restore", "one/0.wav", "1.wav", program=ranks, check=False)
    assert b"one recording is restored by one process" in refused.stderr
    (tmp_path / "noisy/bad.wav").write_bytes(b"RIFF")
    failed = command("restore", "noisy", "noisy-clean", check=False)
    assert failed.returncode == 3
    assert b"the reasons: open-miipher status noisy-clean\n" in failed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_and_names_nothing_of_a_checkout(command, name) -> None:
    said = command(name, "-h").stdout.decode()
    assert said.startswith(f"usage: open-miipher {name}")
    assert not re.search(r"python src/|src/\w+\.py|make [a-z]+\)|'\.\[", said), said


@pytest.mark.slow
def test_the_other_commands_find_what_they_need(command, tmp_path) -> None:
    for number in range(3):
        write_wav(tmp_path / f"speech/{number}.wav", voice(number, 0.8), 24000)
    assert b"3 files" in command("index", "--root-dir", "speech").stdout
    assert b"Training and restoring run here" in command("doctor").stdout
    measured = ["--restored-dir", "speech", "--output-dir", "measured", "--measures", "level"]
    command("evaluate", *measured, "--num-workers", 2)
    assert (tmp_path / "measured/summary.json").is_file()
    tokens = ["--input-audio-dir", "speech", "--output-dir", "tokens", "--codec", "demo"]
    assert b"tokenised" in command("tokenize", *tokens).stdout
    tiny = ["width=8", "bands=[[48, 8]]", "dilations=[1, 2]", "full_band_width=8"]
    command(
        *("train", "model=small_restorer", "data.train.dir_list=[speech]"),
        *("data.test.dir_list=[speech]", "data.crop_seconds=0.4", "data.test.num_clips=1"),
        *("data.test.clip_seconds=0.5", "trainer.batch_size=2", "trainer.num_workers=0"),
        *("trainer.max_steps=2", "trainer.output_dir=run", "model.cleaner.full_band_dilations=[2]"),
        *(f"model.cleaner.{one}" for one in tiny),
    )
    assert (tmp_path / "run/ckpt/latest").exists()
    command("restore", "speech", "restored", "--ckpt-dir", "run")
    assert len(list((tmp_path / "restored").glob("*.wav"))) == 3


@pytest.mark.slow
def test_an_installed_diffusion_is_trained_and_generates(command, tmp_path) -> None:
    tiny_diffusion.make_tones(tmp_path / "tones")
    (tmp_path / "tones/metadata.csv").unlink()
    command("index", "--root-dir", "tones")
    words = tiny_diffusion.overrides("wavenet", Path("tones"))
    command("train", *words, "trainer.max_steps=2", "trainer.output_dir=run")
    made = command("generate", "--ckpt-dir", "run", "--n-samples", 3, "--output-dir", "clips")
    assert b"1 batch made, 0 failed" in made.stdout
    assert len(list(tmp_path.glob("clips/*.wav"))) == 3
    assert b"1 of 1 done" in command("status", "clips").stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_installed_a_published_wavenet_is_imported_and_generates(command, tmp_path) -> None:
    torch.manual_seed(0)
    torch.save({"model_state_dict": Public().state_dict()}, tmp_path / "public.pkl")
    words = ["--kind", "diffwave", "--path", "public.pkl", "--output-dir", "run"]
    assert b"open-miipher generate --ckpt-dir run" in command("import", *words).stdout
    assert b"0 converted, 1 already up to date" in command("convert", "run").stdout
    fast = ["--sampler", "fast", "--n-samples", 1, "--output-dir", "clips"]
    command("generate", "--ckpt-dir", "run", *fast)
    assert (tmp_path / "clips/000000.wav").is_file()


@pytest.mark.slow
def test_an_installed_codec_is_trained_converted_and_tokenises(command, tmp_path) -> None:
    for number in range(2):
        write_wav(tmp_path / f"speech/{number}.wav", voice(number, 1.0), 24000)
    command("index", "--root-dir", "speech")
    words = tiny_codec.overrides("speech")
    command("train", *words, "trainer.max_steps=2", "trainer.output_dir=run")
    assert b"codec " in command("convert", "run", "--codec-to", "codec").stdout
    tokens = ["--input-audio-dir", "speech", "--output-dir", "tokens", "--codec-source", "codec"]
    assert b"1 shard tokenised" in command("tokenize", *tokens, "--bandwidth", 0.75).stdout


@pytest.mark.slow
def test_what_is_exported_restores_the_same_where_it_is_installed(command, tmp_path) -> None:
    write_wav(tmp_path / "noisy/0.wav", voice(0, 1.1), 24000)
    assert b"open-miipher restore --ckpt-dir" in command("export", "--output-dir", "model").stdout
    command("restore", "noisy", "clean")
    command("restore", "noisy", "again", "--ckpt-dir", "model")
    made, again = (tmp_path / folder / "0.wav" for folder in ("clean", "again"))
    assert made.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_shards_are_made_and_trained_on_where_it_is_installed(command, tmp_path) -> None:
    for number in range(3):
        write_wav(tmp_path / f"speech/{number}.wav", voice(number, 1.2), 24000)
    command("index", "--root-dir", "speech")
    made = command(
        *("preprocess", "data=webdataset_preprocess_24k", "data.train.dir_list=[speech]"),
        *("data.crop_seconds=1.0", "data.sample_seconds=1.0", "preprocess.num_writers=1"),
        *("preprocess.output_root=shards", "preprocess.writer_name=w"),
    )
    assert b"1 input done, 0 could not be read in full" in made.stdout
    assert list(tmp_path.glob("shards/w/train/0/*.tar"))
    assert b"1 of 1 done" in command("status", "shards/w/train/0").stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_texts_are_spoken_where_it_is_installed(command, tmp_path) -> None:
    (tmp_path / "texts.txt").write_text("Speak, and be heard.\nHello there.\n")
    words = ["dataset.name=texts.txt", "processing.save_dir=spoken", "processing.devices=[cpu]"]
    said = command("synthesize", *words, "tts.backend=espeak", "codec=demo").stdout
    assert b"2 texts spoken, 0 failed" in said
    assert len((tmp_path / "spoken/audio_tokens.csv").read_text().splitlines()) == 3
    assert b"2 of 2 done" in command("status", "spoken").stdout


@pytest.mark.slow
def test_a_model_is_fetched_where_it_is_installed(environment, tmp_path) -> None:
    tiny_codec.make_codec(tmp_path / "published")
    del environment["HF_HUB_OFFLINE"]
    environment["HF_ENDPOINT"] = Hub({"someone/codec": tmp_path / "published"}).endpoint
    words = ["open-miipher", "fetch", "someone/codec"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob(".cache/huggingface/hub/models--someone--codec/snapshots/*/*.json"))


@pytest.mark.slow
def test_the_page_opens_where_it_is_installed(environment, tmp_path) -> None:
    pytest.importorskip("gradio", reason="no gradio: no page tried")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    page = subprocess.Popen(
        ["open-miipher", "app", "--port", str(port)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert page.stdout is not None
        assert page.stdout.readline().startswith("default: model default-")
        assert page.stdout.readline().startswith(f"open http://127.0.0.1:{port} in a browser")
        with urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
            assert b"Open-Miipher-2" in answer.read()
        page.send_signal(signal.SIGTERM)
        assert page.wait(60) == 0
    finally:
        page.kill()
