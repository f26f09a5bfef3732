"""Texts to speak with the stand-in."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from stand_in import Load

from open_miipher.config import compose_synthesis
from open_miipher.corpus.outcome import Summary
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.run import run
from open_miipher.corpus.synthesising.task import Synthesise
from open_miipher.corpus.synthesising.texts import Texts
from open_miipher.distributed import StopSignal, World


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[..., Path]:
    """Write texts into a file, one a line."""

    def write(*texts: str) -> Path:
        path = tmp_path / "texts.txt"
        path.write_text("".join(f"{text}\n" for text in texts))
        return path

    return write


@pytest.fixture
def synthesise(
    tmp_path: Path, out: Path, alone: World, monkeypatch, warm_workers
) -> Callable[..., Summary]:
    """`synthesise(path, "key=value", …)`: speak texts with the stand-in into tmp_path/out."""
    monkeypatch.setattr("open_miipher.corpus.synthesising.task.fingerprint", lambda *_: "stand-in")
    monkeypatch.setattr(
        "open_miipher.codec.audio_tokenizer.AudioTokenizer.from_config",
        lambda *_: type("Codec", (), {"fingerprint": "counts"}),
    )

    def start(
        path: Path,
        *overrides: str,
        workers: int = 2,
        seconds: float = 0.0,
        stop: StopSignal | None = None,
    ) -> Summary:
        config = compose_synthesis(
            [f"dataset.name={path}", f"processing.save_dir={out}", "tts.batch_size=4", *overrides]
        )
        config.check()
        texts = Texts(config.dataset, config.tts.characters_per_second)
        (tmp_path / "log").touch()
        with Pool(workers, config.processing.time_limit, retries=0) as pool:
            task = Synthesise(config, texts, pool, ["cpu"] * workers, 1, Load(tmp_path, seconds))
            task.check_overwriting()
            return run(
                task,
                out,
                alone,
                config.processing.overwrite,
                config.array_task,
                stop,
                config.allowed,
            )

    return start
