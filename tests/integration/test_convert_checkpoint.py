"""Checkpoints of before become ones of now, by one command."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import tiny_codec
import torch

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint, complete_checkpoints, weights_of
from open_miipher.codec import AudioTokenizer
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.restoration import Chain
from open_miipher.training import Trainer, prepare

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def begin(*overrides: str) -> Trainer:
    return prepare(compose_run(list(overrides)), start("cpu"))


def age(folder: Path, saved_at: float) -> None:
    """Make a checkpoint what it was before: no networks.json, no number, one fingerprint."""
    listing = json.loads((folder / "files.json").read_text())
    networks = json.loads((folder / "networks.json").read_text())
    state = json.loads((folder / "state.json").read_text())
    del listing["networks.json"], state["save_number"]
    (folder / "networks.json").unlink()
    state |= {"encoder_fingerprint": networks["encoder"]["fingerprint"], "saved_at": saved_at}
    data = json.dumps(state).encode()
    (folder / "state.json").write_bytes(data)
    listing["state.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "files.json").write_text(json.dumps(listing))


@pytest.fixture
def convert(run_script):
    return partial(run_script, "src/convert_checkpoint.py", check=False)


@pytest.fixture(scope="module")
def old_run(tiny_stages, tmp_path_factory) -> Path:
    """A run of the last stage whose three checkpoints are of before; it went back once."""
    out = tmp_path_factory.mktemp("old") / "run"
    more = ["trainer.max_steps=3", "trainer.save_every=1", f"trainer.output_dir={out}"]
    begin(*tiny_stages["finetune"], *more).run()
    for folder, saved_at in zip(sorted(out.glob("ckpt/step-*")), (10.0, 30.0, 20.0), strict=True):
        age(folder, saved_at)
    return out


@pytest.fixture
def run(old_run, tmp_path) -> Path:
    return shutil.copytree(old_run, tmp_path / "run", symlinks=True)


def test_a_run_is_converted_restores_and_goes_on(run, convert):
    before = {p.name: p.read_bytes() for p in (run / "ckpt/step-00000002").glob("*.safetensors")}
    with pytest.raises(UserError, match=r"convert it: python src/convert_checkpoint\.py"):
        Chain.from_checkpoint(run)
    done = convert(run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("3 converted, 0 already up to date\n")
    names = [folder.name for folder in complete_checkpoints(run / "ckpt")]
    assert names == ["step-00000001", "step-00000003", "step-00000002"]  # as they were saved
    checkpoint = Checkpoint.open(run).verify()
    assert {p.name: p.read_bytes() for p in checkpoint.path.glob("*.safetensors")} == before
    assert checkpoint.networks.keys() == {"encoder", "cleaner", "generator", "discriminator"}
    averaged = checkpoint.weights("generator", ema=True)
    vocoder = checkpoint.build("generator", True)
    assert all(torch.equal(x, averaged[name]) for name, x in weights_of(vocoder).items())
    vocoder.merge(on_gpu=False)
    weights, merged = (weights_of(x) for x in (Chain.from_checkpoint(run).vocoder, vocoder))
    assert all(torch.equal(x, merged[name]) for name, x in weights.items())
    trainer = begin(f"trainer.ckpt_dir={run}", f"trainer.output_dir={run}", "trainer.max_steps=4")
    assert trainer.state.step == 2
    assert all(optimizer.state for optimizer in trainer.state.optimizers.values())
    trainer.run()
    assert Checkpoint.open(run).state["step"] == 4
    assert convert(run).stdout == "0 converted, 3 already up to date\n"
    assert not list(run.glob("ckpt/.*.tmp"))


def test_what_cannot_be_converted_stays_as_it_is(run, convert, tmp_path):
    none = convert(tmp_path / "nowhere")
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "holds no checkpoint" in none.stderr
    state = run / "ckpt/step-00000003/state.json"
    state.write_text(state.read_text()[:-1])
    damaged = convert(run)
    assert damaged.returncode == 2
    assert "step-00000003 is damaged: state.json has" in damaged.stderr
    assert not list(run.glob("ckpt/*/networks.json"))


def test_the_shipped_chain_is_of_today():
    assert Checkpoint.open(ROOT / "pretrained/default").verify().networks.keys() >= {"generator"}


def test_the_codec_of_a_run_becomes_a_folder_of_transformers(
    convert, speech_dir, run, tmp_path
) -> None:
    out, folder = tmp_path / "codec_run", tmp_path / "codec"
    words = tiny_codec.overrides(speech_dir)
    begin(*words, "trainer.max_steps=2", f"trainer.output_dir={out}").run()
    done = convert(out, "--codec-to", folder)
    assert done.returncode == 0, done.stderr
    codec = AudioTokenizer("cpu", str(folder), 0.75)  # 2 tokens of 5 bits, 75 times a second
    assert codec.fingerprint in done.stdout
    tokens = codec.encode(torch.randn(1, 3200), torch.tensor([3200]))
    assert (tokens[0].shape, codec.decode(tokens)[0].shape) == ((10, 2), (3200,))
    again = convert(out, "--codec-to", folder)
    assert (again.returncode, "give a new or an empty folder" in again.stderr) == (2, True)
    other = convert(run, "--codec-to", tmp_path / "other")
    assert other.returncode == 2
