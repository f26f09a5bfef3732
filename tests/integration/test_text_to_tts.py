"""From text to a voice, and the proof of restoring: both job scripts, whole, but small."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tiny_codec import make_codec

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "The sun rose over the quiet village.",
    "I am happy you are here.",
    "Bring me a glass of water, please.",
    "The train leaves at seven.",
    "A small dog barked at the moon.",
    "Please call me back tomorrow.",
]
SHORT = (
    "data.augmentation_factor=1 trainer.max_steps=2 trainer.save_every=2 "
    "trainer.validate_every=2 trainer.batch_size=2 trainer.device=cpu"
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("espeak-ng") is None, reason="needs espeak-ng (apt-get install espeak-ng)"
    ),
]


def run_job(script: str, *arguments: str | Path, **variables: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "CUDA_VISIBLE_DEVICES": "",
        **variables,
    }
    done = subprocess.run(
        ["bash", ROOT / "jobs/local" / script, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_texts_become_a_voice_and_the_same_speech_the_proof(tmp_path):
    make_codec(tmp_path / "codec", target_bandwidths=[1.5])
    codec = f"codec=demo codec.source={tmp_path / 'codec'}"
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS) + "\n")
    extra = f"data.seconds=4 {SHORT}"
    voice = {"OUTPUT_DIR": str(tmp_path / "voice"), "CODEC": codec, "EXTRA": extra}
    for _ in range(2):  # the second finds all done
        run_job("text_to_tts.sh", texts, **voice)
    heard = sorted((tmp_path / "voice/heard").glob("*.wav"))
    assert [path.name[:7] for path in heard] == [f"{number:06d}-" for number in range(1, 5)]
    for path in heard:
        sound, rate = soundfile.read(path)
        assert rate == 24000
        assert 0 < len(sound) <= 4 * rate
    proof = {"OUTPUT_DIR": str(tmp_path / "proof"), "CODEC": codec, "EXTRA": SHORT}
    sizes = {"HELD_OUT": "2", "SEEDS": "0", "LONGEST": "4"}
    spoken, restorer = tmp_path / "voice/spoken", ROOT / "pretrained/default"
    told = run_job("restore_for_tts.sh", spoken, restorer, **proof, **sizes)
    rows = [line.split()[0] for line in told.splitlines() if line.startswith(("codec", "clean"))]
    assert rows == ["codec's", "clean"]
    assert "damaged" in told.splitlines()[-2]
    assert "restored" in told.splitlines()[-1]
