"""`singularity test IMAGE`: imports, a codec round trip, two training steps on the CPU."""

import importlib
import io
import json
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

CODE = Path(__file__).resolve().parents[1]
PACKAGES = (
    "hydra huggingface_hub matplotlib omegaconf PIL pyroomacoustics safetensors scipy soxr "
    "tensorboard torch torchaudio tqdm transformers wandb yaml"
)
SAMPLE_RATE = 24_000  # Hz
STEPS = 2


def import_everything() -> int:
    """Import every package that is used and every module of the code; return their number."""
    package = importlib.import_module("open_miipher")
    modules = [module.name for module in pkgutil.walk_packages(package.__path__, "open_miipher.")]
    names = [*PACKAGES.split(), *modules]
    for name in names:
        importlib.import_module(name)
    return len(names)


def round_trip() -> None:
    """Write a tone as MP3 and as Opus, and read it back as loud and as long."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    for name, subtype in (("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")):
        data = io.BytesIO()
        soundfile.write(data, tone, SAMPLE_RATE, format=name, subtype=subtype)
        data.seek(0)
        read, _ = soundfile.read(data)
        middle = read[4000:20_000]
        assert abs(len(read) - len(tone)) < 4000, (subtype, len(read))
        assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.02, subtype


def train() -> list[float]:
    """Train two steps on the demo's audio and return their losses."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(CODE / "src/train.py"),
            "model=demo_feature_cleaner",
            f"data.train.dir_list=[{CODE / 'dataset/demo/speech/train'}]",
            f"data.train.noise_dir_list=[{CODE / 'dataset/demo/noise'}]",
            f"trainer.output_dir={folder}/run",
            f"trainer.max_steps={STEPS}",
            "trainer.batch_size=2",
            "trainer.log_every=1",
            "trainer.num_workers=0",
            "trainer.device=cpu",
            "trainer.logger.kind=none",
        ]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        lines = Path(folder, "run/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert len(losses) == STEPS, rows
    assert np.isfinite(losses).all(), losses
    return losses


if __name__ == "__main__":
    print(f"{import_everything()} modules import")
    round_trip()
    print("MP3 and Opus round trips work")
    print(f"two steps were trained, losses {train()}")
