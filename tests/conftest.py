"""Audio and commands that many tests share."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import warm  # noqa: E402
from speech import voice, write_wav  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def speech_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven short voice-like files of two rates, indexed."""
    from open_miipher.index import Entry, write_index

    root = tmp_path_factory.mktemp("speech")
    entries = []
    for number in range(7):
        rate = (24000, 16000)[number % 2]
        waveform = voice(number, 0.6 + 0.2 * number, rate)
        write_wav(root / f"{number}.wav", waveform, rate)
        entries.append(Entry(f"{number}.wav", rate, len(waveform), 1, {}))
    write_index(root, entries)
    return root


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short clips of two tones, indexed."""
    from tiny_diffusion import make_tones

    return make_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tiny_tts.make_all` makes: words of a made-up language, indexed, and a codec."""
    from tiny_tts import make_all

    return make_all(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return `warm.run_script`."""
    return warm.run_script


@pytest.fixture
def start_script() -> Iterator[Callable[..., warm.Run]]:
    """Return a function that gives a `warm.Run`; what a test leaves of it is killed."""
    with ExitStack() as stack:
        yield lambda *words, **options: stack.enter_context(warm.Run(*words, **options))


@pytest.fixture
def torchrun():
    """Return a function that starts a script of the repository under torchrun.

    What a test that failed has left is killed, or it would take the cores from those after it.
    """
    started: list[subprocess.Popen] = []

    def start(script: str, *arguments: str, ranks: int = 1, **options) -> subprocess.Popen:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(ranks), str(ROOT / script), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # its workers end with it


# Overrides that make the demo's parts tiny.
TINY_CLEANER = [
    "model.cleaner.num_blocks=1",
    "model.cleaner.width=32",
    "model.cleaner.feed_forward_width=32",
]
TINY_VOCODER = [
    "model.vocoder.griffin_lim_steps=1",
    "model.vocoder.generator.condition_channels=16",
    "model.vocoder.generator.stem_channels=8",
    "model.vocoder.generator.down_channels=[8]",
    "model.vocoder.generator.up_channels=[16,8]",
    "model.discriminators.multi_period.channels=[4,8,8]",
]

TINY_WAVENEXT2 = [
    "model.vocoder.griffin_lim_steps=1",
    "model.vocoder.generator.width=16",
    "model.vocoder.generator.feed_forward_width=16",
    "model.vocoder.generator.num_blocks=1",
    "model.discriminators.multi_period.channels=[4,8,8]",
]


@pytest.fixture(scope="session")
def tiny_stages(speech_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Override lists of every stage at a size for tests; stages 1 and 2 exist for stage 3."""
    from open_miipher.config import compose_run
    from open_miipher.distributed import start
    from open_miipher.training import prepare

    common = [
        f"data.train.dir_list=[{speech_dir}]",
        f"data.test.dir_list=[{speech_dir}]",
        "data.crop_seconds=0.4",
        "data.test.num_clips=3",
        "data.test.clip_seconds=0.5",
        "trainer.batch_size=4",
        "trainer.num_workers=0",
        "trainer.sample_every=0",
        "trainer.device=cpu",
    ]
    cleaner = ["model=demo_feature_cleaner", *TINY_CLEANER, *common]
    pretrain = ["model=demo_wavefit_pretrain", "model.segment_seconds=0.2", *TINY_VOCODER, *common]
    short = "model.segment_seconds=0.2"
    wavenext2 = ["model=demo_wavenext2_pretrain", short, *TINY_WAVENEXT2, *common]
    root = tmp_path_factory.mktemp("stages")
    for name, overrides in (("stage1", cleaner), ("stage2", pretrain)):
        end = [f"trainer.output_dir={root / name}", "trainer.max_steps=1"]
        prepare(compose_run([*overrides, *end]), start("cpu")).run()
    finetune = [
        "model=demo_wavefit_finetune",
        "model.segment_seconds=0.2",
        f"model.cleaner_ckpt_dir={root / 'stage1'}",
        f"model.vocoder_ckpt_dir={root / 'stage2'}",
        *common,
    ]
    waveform = [
        "model=small_restorer",
        "model.cleaner.width=8",
        "model.cleaner.bands=[[48, 8]]",
        "model.cleaner.dilations=[1, 2]",
        "model.cleaner.full_band_width=8",
        "model.cleaner.full_band_dilations=[2]",
        *common,
    ]
    return {
        "cleaner": cleaner,
        "pretrain": pretrain,
        "wavenext2": wavenext2,
        "finetune": finetune,
        "waveform": waveform,
    }


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that waits for a condition, or fails."""

    def wait(condition: Callable[[], bool], seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def end_of() -> Callable[[Path], tuple[list[dict], dict[str, str]]]:
    """Return a function that gives a run's losses and the hashes of its final weights."""

    def end(output_dir: Path) -> tuple[list[dict], dict[str, str]]:
        lines = (output_dir / "metrics.jsonl").read_text().splitlines()
        rows = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        from open_miipher.checkpoint import Checkpoint

        files = json.loads((Checkpoint.open(output_dir).path / "files.json").read_text())
        weights = {name: entry["sha256"] for name, entry in files.items() if "safetensors" in name}
        return rows, weights

    return end
