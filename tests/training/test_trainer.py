"""Whole small runs in this process: what is saved, resumed, refused and logged."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint, folder, weights_of
from open_miipher.config import compose_run
from open_miipher.distributed import World, start
from open_miipher.index import Entry, read_index, write_index
from open_miipher.training import Trainer, prepare
from open_miipher.training import trainer as trainer_module
from open_miipher.training.optimization import load_optimizer


def begin(*overrides: str) -> Trainer:
    return prepare(compose_run(list(overrides)), start("cpu"))


def rows(output_dir: Path, split: str = "train") -> list[dict]:
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def cleaner(tiny_stages, run_dir) -> list[str]:
    logged = ["trainer.log_every=1", f"trainer.output_dir={run_dir}"]
    return [*tiny_stages["cleaner"], *logged]


def test_what_a_run_leaves(cleaner, run_dir):
    more = ["trainer.max_steps=4", "trainer.save_every=3", "trainer.validate_every=2"]
    begin(*cleaner, *more).run()
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4]
    assert {"loss", "l1", "l2", "spectral_convergence", "lr", "seconds"} <= rows(run_dir)[0].keys()
    scored = rows(run_dir, "validation")
    assert [row["step"] for row in scored] == [2, 4]
    expected = {"loss", "l1", "feature_distance", "feature_distance_damaged", "lr", "seconds"}
    assert expected <= scored[0].keys()
    checkpoint = Checkpoint.open(run_dir)
    assert checkpoint.state["step"] == 4
    assert checkpoint.has_ema("cleaner")
    assert not any(key.startswith("encoder.") for key in checkpoint.weights("cleaner"))
    best = min(scored, key=lambda row: row["feature_distance"])
    assert Checkpoint.open(run_dir / "ckpt" / "best").state["step"] == best["step"]
    assert "step 4: done" in (run_dir / "train.log").read_text()


@pytest.mark.parametrize("save_every", [2, 100])
def test_a_second_ctrl_c_says_where_to_go_on_from(cleaner, run_dir, monkeypatch, save_every):
    trainer = begin(*cleaner, "trainer.max_steps=9", f"trainer.save_every={save_every}")
    step = trainer.step

    def step_and_interrupt():
        step()
        for _ in range(2 if trainer.state.step == 4 else 0):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer, "step", step_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    last = (run_dir / "train.log").read_text().splitlines()[-1]
    if save_every == 2:
        assert f"ended at once; the newest checkpoint is {run_dir}/ckpt/step-00000002" in last
        assert last.endswith(f"to go on: python src/train.py trainer.ckpt_dir={run_dir}")
    else:
        assert last == "step 4: ended at once, before anything was saved"


def test_a_new_learning_rate_wins_over_the_optimiser_state(cleaner, run_dir):
    begin(*cleaner, "trainer.max_steps=2", "optimizer.cleaner.warmup_steps=0").run()
    new = ["optimizer.cleaner.lr=0.25", "optimizer.cleaner.schedule=constant"]
    weight_decay = "optimizer.cleaner.weight_decay=0.125"
    trainer = begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=3", *new, weight_decay)
    groups = trainer.state.optimizers["cleaner"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.125, 0.0]
    assert len(trainer.state.optimizers["cleaner"].state) > 0
    trainer.run()
    assert rows(run_dir)[-1]["lr"] == 0.25


def test_a_changed_index_starts_a_new_epoch(cleaner, speech_dir, tmp_path, run_dir, capsys):
    data = tmp_path / "data"
    shutil.copytree(speech_dir, data)
    cleaner = [*cleaner, f"data.train.dir_list=[{data}]"]
    cleaner.remove(f"data.train.dir_list=[{speech_dir}]")
    begin(*cleaner, "trainer.max_steps=2").run()  # 8 samples of 7 files: in epoch 1
    write_index(data, read_index(data).entries[:5])
    trainer = begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=3")
    assert "starting epoch 2" in capsys.readouterr().out
    assert trainer.state.position.consumed == 2 * 5
    trainer.run()
    state = Checkpoint.open(run_dir).state
    assert (state["epoch"], state["samples_consumed"]) == (2, 4)


def test_init_from_takes_averaged_weights_and_nothing_else(cleaner, run_dir, tmp_path):
    begin(*cleaner, "trainer.max_steps=3").run()
    old = Checkpoint.open(run_dir)
    other = [o for o in cleaner if "output_dir" not in o]
    trainer = begin(
        *other, f"trainer.init_from={run_dir}", f"trainer.output_dir={tmp_path / 'new'}"
    )
    assert trainer.state.step == trainer.state.position.consumed == 0
    assert not trainer.state.optimizers["cleaner"].state
    averaged = old.weights("cleaner", ema=True)
    for key, value in weights_of(trainer.recipe.saved["cleaner"]).items():
        assert torch.equal(value, averaged[key])


def test_later_stages_take_averaged_weights(tiny_stages, run_dir):
    trainer = begin(*tiny_stages["finetune"], f"trainer.output_dir={run_dir}")
    folder = next(o for o in tiny_stages["finetune"] if "vocoder_ckpt_dir" in o).split("=")[1]
    averaged = Checkpoint.open(folder).weights("generator", ema=True)
    for key, value in weights_of(trainer.recipe.saved["generator"]).items():
        assert torch.equal(value, averaged[key])
    assert not trainer.recipe.frozen["cleaner"].training
    trainer.save()
    assert Checkpoint.open(run_dir).names == ["cleaner", "discriminator", "generator"]


def test_a_loss_that_is_not_finite_stops_before_the_step(cleaner, run_dir):
    more = ["optimizer.cleaner.lr=1e30", "optimizer.cleaner.warmup_steps=0"]
    trainer = begin(*cleaner, *more, "trainer.max_steps=9", "trainer.save_every=1")
    with pytest.raises(UserError, match=r"not finite at step 1.*\.wav epoch 0 index"):
        trainer.run()
    assert Checkpoint.open(run_dir).state["step"] == 1


def test_a_gradient_that_is_not_finite_stops_before_the_step(cleaner, run_dir):
    trainer = begin(*cleaner, "trainer.max_steps=2")
    network = trainer.recipe.trained["cleaner"]
    before = {key: value.clone() for key, value in network.trained_state_dict().items()}
    network.project_in.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match=r"grad_norm_cleaner not finite at step 0"):
        trainer.run()
    for key, value in network.trained_state_dict().items():
        assert torch.equal(value, before[key])


def test_two_runs_cannot_write_one_directory(cleaner):
    first = begin(*cleaner)
    with pytest.raises(UserError, match="another run is writing"):
        begin(*cleaner)
    assert first.lock is not None


def test_one_command_starts_stops_and_goes_on(cleaner, run_dir):
    command = [*cleaner, "trainer.ckpt_dir=auto"]
    trainer = begin(*command, "trainer.max_steps=9")
    os.kill(os.getpid(), signal.SIGUSR2)  # before the first step
    trainer.run()
    assert Checkpoint.open(run_dir).state["step"] == 1
    assert (run_dir / "REQUEUE").exists()
    trainer.lock.close()
    trainer = begin(*command, "trainer.max_steps=2")
    assert not (run_dir / "REQUEUE").exists()
    os.kill(os.getpid(), signal.SIGTERM)  # too late to end it early
    trainer.run()
    assert [row["step"] for row in rows(run_dir)] == [1, 2]
    assert not (run_dir / "REQUEUE").exists()


def test_a_run_that_fails_asks_for_no_requeue(cleaner, run_dir):
    trainer = begin(*cleaner, "optimizer.cleaner.lr=1e30", "optimizer.cleaner.warmup_steps=0")
    os.kill(os.getpid(), signal.SIGTERM)
    trainer.state.step = 1
    trainer.recipe.trained["cleaner"].project_in.weight.register_hook(lambda g: g * float("nan"))
    with pytest.raises(UserError, match="not finite"):
        trainer.run()
    assert not (run_dir / "REQUEUE").exists()


def test_auto_refuses_a_checkpoint_that_another_run_has_passed(cleaner, run_dir):
    begin(*cleaner, "trainer.max_steps=1").run()
    late = compose_run([*cleaner, "trainer.ckpt_dir=auto"])
    begin(*cleaner, "trainer.ckpt_dir=auto", "trainer.max_steps=2").run()
    with pytest.raises(UserError, match=r"step-00000001 is no longer the newest"):
        prepare(late, start("cpu"))


class Ranks(World):
    """Another rank, whose machine has its own disk, stands beside this one."""

    def gather(self, item):
        return [item, ("elsewhere", [])] if isinstance(item, tuple) else [item]


def test_ranks_that_see_different_checkpoints_say_what_each_sees(cleaner, run_dir):
    begin(*cleaner, "trainer.max_steps=2").run()
    world = Ranks(0, 1, 0, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"step-00000002 \(step 2, save 1, .*rank 1 on elsewhere: no"
    ) as e:
        prepare(compose_run([*cleaner, "trainer.ckpt_dir=auto"]), world)
    assert e.value.shared


def test_a_fresh_run_does_not_write_over_an_old_one(cleaner, run_dir):
    begin(*cleaner, "trainer.max_steps=1").run()
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"trainer\.ckpt_dir=auto"):
        begin(*cleaner, "trainer.max_steps=1")
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_architecture_is_refused(cleaner, run_dir):
    begin(*cleaner, "trainer.max_steps=1").run()
    with pytest.raises(UserError, match=r"the cleaner.s weights lack blocks\.1"):
        begin(f"trainer.ckpt_dir={run_dir}", "model.cleaner.num_blocks=2")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train.dir_list=[/nowhere/at/all]", "/nowhere/at/all"),
        ("data.train.dir_list=[]", r"data\.train\.dir_list"),
        ("model.cleaner.name=nothing", r"model\.cleaner\.name=nothing"),
        ("+model.cleaner.colour=red", r"model\.cleaner\.colour"),
        ("+model.loss_weights.l3=1", r"model\.loss_weights\.l3"),
        ("trainer.batch_size=3", r"trainer\.batch_size=3"),
        ("trainer.init_from=/nowhere", "no checkpoint at /nowhere"),
    ],
)
def test_wrong_use_is_one_sentence(cleaner, override, words):
    with pytest.raises(UserError, match=words) as caught:
        begin(*cleaner, "trainer.grad_accumulation=2", override)
    assert "\n" not in str(caught.value)


def test_wrong_rows_of_an_index_are_named(cleaner, speech_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(speech_dir, data)
    entries = read_index(data).entries
    wrong = Entry(entries[0].file_path, entries[0].sample_rate, 5, 1, {})
    write_index(data, [wrong, *entries[1:], Entry("gone.wav", 24000, 100, 1, {})])
    with pytest.raises(UserError, match=r"2 problems(.|\n)*(0|gone)\.wav"):
        begin(*cleaner, f"data.train.dir_list=[{data}]")


def test_without_test_data_there_is_no_validation(cleaner, run_dir, capsys):
    begin(
        *cleaner, "data.test.dir_list=[]", "trainer.max_steps=2", "trainer.validate_every=1"
    ).run()
    assert "no validation" in capsys.readouterr().out
    assert rows(run_dir, "validation") == []


def test_what_a_run_will_not_do_is_said(cleaner, run_dir, capsys):
    begin(*cleaner, "trainer.max_steps=2", "trainer.validate_every=3").run()
    assert "validate_every=3 is beyond the last step: no validation" in capsys.readouterr().out
    begin(f"trainer.ckpt_dir={run_dir}", "trainer.validate_every=1").run()
    said = capsys.readouterr().out
    assert "step 2: nothing to do, trainer.max_steps=2; give more to go on" in said
    assert "no validation" not in said


def test_samples_are_written_to_listen_to(tiny_stages, run_dir):
    overrides = [o for o in tiny_stages["pretrain"] if "sample_every" not in o]
    more = ["trainer.sample_every=2", "trainer.max_steps=2", "trainer.num_samples=2"]
    begin(*overrides, *more, f"trainer.output_dir={run_dir}").run()
    folder = run_dir / "samples" / "step-00000002"
    names = {
        f"clip-{n:02d}{end}" for n in (0, 1) for end in ("-clean.flac", "-restored.flac", ".png")
    }
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.slow
def test_wandb_offline_goes_on_under_the_same_id(tiny_stages, run_dir, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    overrides = [o for o in tiny_stages["pretrain"] if "sample_every" not in o]
    more = ["trainer.logger.kind=wandb", "trainer.sample_every=1", "trainer.log_every=1"]
    begin(*overrides, *more, f"trainer.output_dir={run_dir}", "trainer.max_steps=1").run()
    first = Checkpoint.open(run_dir).state["run_id"]
    begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=2").run()
    assert first == Checkpoint.open(run_dir).state["run_id"]
    folders = list((run_dir / "wandb").glob(f"offline-run-*-{first}"))
    assert folders
    assert any(folder.rglob("*.wav") for folder in folders)


def test_tensorboard_gets_curves(cleaner, run_dir):
    begin(*cleaner, "trainer.logger.kind=tensorboard", "trainer.max_steps=2").run()
    assert list((run_dir / "tensorboard").glob("events.*"))


def test_an_old_checkpoint_that_cannot_go_does_not_end_the_run(cleaner, run_dir, monkeypatch):
    """On NFS a folder that somebody reads cannot be removed."""
    more = ["trainer.max_steps=3", "trainer.save_every=1", "trainer.keep_last=1"]
    trainer = begin(*cleaner, *more, "trainer.validate_every=0")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "step-00000001":
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    trainer.run()
    log = (run_dir / "train.log").read_text()
    assert "step-00000001 cannot be removed: Device or resource busy" in log
    assert "step 3: done" in log
    assert sorted(p.name for p in (run_dir / "ckpt").glob("step-*")) == [
        "step-00000001", "step-00000003"
    ]  # fmt: skip


def test_training_goes_on_while_its_state_of_before_is_written(cleaner, run_dir, monkeypatch):
    more = ["trainer.max_steps=3", "trainer.save_every=1", "trainer.validate_every=0"]
    trainer = begin(*cleaner, *more)
    write, may_write, then = trainer_module.write_checkpoint, threading.Event(), {}

    def slowly(root, content, best):
        if content.state["step"] == 2:
            assert may_write.wait(60)
        return write(root, content, best)

    def step(take=trainer.step):
        if trainer.state.step == 2:
            then.update(
                {k: v.clone() for k, v in weights_of(trainer.recipe.trained["cleaner"]).items()}
            )
            take()
            assert Checkpoint.open(run_dir).state["step"] == 1
            may_write.set()
        else:
            take()

    monkeypatch.setattr(trainer_module, "write_checkpoint", slowly)
    monkeypatch.setattr(trainer, "step", step)
    trainer.run()
    assert Checkpoint.open(run_dir).state["step"] == 3
    written = Checkpoint.open(run_dir, "2").weights("cleaner")
    assert all(torch.equal(value, then[key]) for key, value in written.items())
    log = (run_dir / "train.log").read_text()
    assert log.index("saved step 2") < log.index("saved step 3") < log.index("step 3: done")


def test_a_checkpoint_that_cannot_be_written_beside_training_ends_it(cleaner, run_dir, monkeypatch):
    trainer = begin(*cleaner, "trainer.max_steps=1000", "trainer.save_every=2")
    write = trainer_module.write_checkpoint

    def full(root, content, best):
        if content.state["step"] == 4:
            raise UserError("cannot write the checkpoint: the disk is full")
        return write(root, content, best)

    monkeypatch.setattr(trainer_module, "write_checkpoint", full)
    with pytest.raises(UserError, match="the disk is full"):
        trainer.run()
    assert trainer.state.step < 100
    assert Checkpoint.open(run_dir).state["step"] == 2
    assert not (run_dir / "REQUEUE").exists()


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_checkpoint_is_hashed_by_the_first_rank_of_a_machine(
    cleaner, run_dir, monkeypatch, local_rank
):
    begin(*cleaner, "trainer.max_steps=1").run()
    hashed = []
    sha256 = folder._sha256
    monkeypatch.setattr(folder, "_sha256", lambda file: hashed.append(file.name) or sha256(file))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    trainer = begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=2")
    assert trainer.state.step == 1
    large = [name for name in hashed if name.endswith((".safetensors", ".pt"))]
    names = ["cleaner.ema.safetensors", "cleaner.safetensors", "training.pt"]
    assert sorted(large) == (names if local_rank == 0 else [])


def test_an_older_checkpoint_goes_on_in_place(cleaner, run_dir, capsys):
    every = ["trainer.save_every=1", "trainer.validate_every=1", "trainer.keep_last=2"]
    begin(*cleaner, *every, "trainer.max_steps=4").run()
    best = Checkpoint.open(run_dir, "best").state["step"]
    trainer = begin(f"trainer.ckpt_dir={run_dir}", "trainer.ckpt=3", "trainer.max_steps=5")
    said = capsys.readouterr().out
    assert f"is set aside in {run_dir}/ckpt/abandoned-" in said
    assert (trainer.state.best_score == float("inf")) == (best == 4)
    trainer.run()
    [folder] = (run_dir / "ckpt").glob("abandoned-*")
    assert Checkpoint.open(folder).state["step"] == 4
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4, 5]
    assert Checkpoint.open(run_dir, "best").path.parent == (run_dir / "ckpt").resolve()


def test_a_run_says_what_it_is_and_how_to_go_on(cleaner, run_dir, tmp_path, capsys):
    more = ["trainer.max_steps=9", "optimizer.cleaner.lr=1e-6"]
    trainer = begin(*cleaner, *more)
    os.kill(os.getpid(), signal.SIGINT)
    assert trainer.run() is False
    said = capsys.readouterr().out
    assert f"demo_feature_cleaner in {run_dir}, on cpu, one process" in said
    assert "trains on 7 files, 8.4 s; steps 0 to 9 of 4 samples" in said
    assert "cleaner.lr=1e-06 is below its schedule's end, final_lr=0.0001" in said
    assert " steps/s, " in said
    assert (
        f"stopped by a signal, and saved; to go on: python src/train.py trainer.ckpt_dir={run_dir}"
        in said
    )
    trainer.lock.close()
    assert begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=1").run() is True
    assert "overrides that still hold: model=demo_feature_cleaner" in capsys.readouterr().out
    end = [f"trainer.output_dir={tmp_path}/next", "trainer.max_steps=1"]
    begin(*cleaner, *end, f"trainer.init_from={run_dir}")
    assert (
        f"trainer.init_from: {run_dir}/ckpt/step-00000001 (step 1, newest)"
        in capsys.readouterr().out
    )


@pytest.mark.dist
def test_a_run_that_was_stopped_early_has_a_status_of_its_own(start_script, cleaner, run_dir):
    """It was 0, so that the next stage began."""
    for ranks, status in ((1, 4), (2, 0)):  # a launcher would take another one for a failure
        run = start_script("src/train.py", *cleaner, "trainer.ckpt_dir=auto", ranks=ranks)
        before = len(rows(run_dir)) if run_dir.exists() else 0
        deadline = time.monotonic() + 120
        while not (run_dir / "metrics.jsonl").exists() or len(rows(run_dir)) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run.send(signal.SIGINT)
        done = run.end(60)
        assert done.returncode == status, done.stderr
        assert "stopped by a signal, and saved; to go on: " in done.stdout
        assert "Traceback" not in done.stderr


def test_training_data_of_zeros_is_told(cleaner, tmp_path, capsys):
    write_index(tmp_path, [Entry("a.wav", 24000, 24000, 1)])
    soundfile.write(tmp_path / "a.wav", np.zeros(24000), 24000)
    end = ["trainer.max_steps=2", "data.test.dir_list=[]", "data.degradation.max_stages=0"]
    begin(*cleaner, *end, f"data.train.dir_list=[{tmp_path}]").run()
    said = capsys.readouterr().out
    assert said.count("warning: the loss is exactly 0") == 1
    assert f"{tmp_path.name}/a.wav" in said


def test_a_validation_that_ends_worse_than_the_damage_is_told(cleaner, capsys):
    trainer = begin(*cleaner, "trainer.max_steps=1")
    trainer.scores = {"feature_distance": 1.5, "feature_distance_damaged": 1.0, "loss": 2.0}
    trainer.run()
    assert "validation ended with a feature_distance of 1.5, the damaged input's is 1" in (
        capsys.readouterr().out
    )


def test_from_a_bad_step_on_nothing_changes_until_it_is_told(cleaner, run_dir, tmp_path):
    """It is told at the next line, and the state is then that before it."""
    more = ["trainer.max_steps=9", "trainer.log_every=5", "trainer.save_every=100"]
    trainer = begin(*cleaner, *more, f"trainer.output_dir={tmp_path / 'bad'}")
    calls = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("nan") if len(calls) == 3 else gradient

    trainer.recipe.trained["cleaner"].project_in.weight.register_hook(spoil)
    names = []
    trainer.batches = (names.append(b.names) or b for b in trainer.batches)
    with pytest.raises(UserError, match="grad_norm_cleaner not finite at step 2; nothing") as e:
        trainer.run()
    assert len(names) == 5
    assert str(e.value).endswith("; ".join(names[2]))
    assert not list((tmp_path / "bad" / "ckpt").glob("step-*"))
    good = begin(*cleaner, "trainer.max_steps=2", f"trainer.output_dir={tmp_path / 'good'}")
    good.run()
    bad, expected = trainer.state.content(), good.state.content()
    moments = [c.training["optimizers"]["cleaner"]["state"] for c in (bad, expected)]
    for one, other in (moments, (bad.weights, expected.weights), (bad.ema, expected.ema)):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for key in ("step", "epoch", "samples_consumed"):
        assert bad.state[key] == expected.state[key]


def test_fp16_leaves_out_what_overflows_and_goes_on(cleaner, run_dir):
    trainer = begin(*cleaner, "trainer.max_steps=2", "trainer.amp=fp16")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.state.scaler = scaler
    network = trainer.recipe.trained["cleaner"]
    before = network.project_in.weight.clone()
    hook = network.project_in.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer.step()
    trainer.read()
    assert torch.equal(network.project_in.weight, before)
    assert scaler.get_scale() == 512.0
    hook.remove()
    trainer.step()
    trainer.read()
    assert not torch.equal(network.project_in.weight, before)


def test_a_checkpoint_of_an_unfused_optimiser_goes_on_fused(cleaner, run_dir):
    begin(*cleaner, "trainer.max_steps=1").run()
    trainer = begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=2")
    saved = trainer.state.optimizers["cleaner"].state_dict()
    for group in saved["param_groups"]:
        group.update(fused=None, foreach=True)
    load_optimizer(trainer.state.optimizers["cleaner"], saved)
    assert all(g["fused"] for g in trainer.state.optimizers["cleaner"].param_groups)
    trainer.run()
    assert trainer.state.step == 2


def test_several_scores_choose_the_best_checkpoint_together(tiny_stages, run_dir, capsys):
    """The first is better at step 2 by a fifth, the second worse by a tenth; step 3 is neither."""
    more = ["trainer.max_steps=3", "trainer.validate_every=1", f"trainer.output_dir={run_dir}"]
    named = "trainer.best_by=[log_spectral_distance,dnsmos_overall]"
    pytest.importorskip("speechmos")
    trainer = begin(*tiny_stages["pretrain"], *more, named)
    values = {1: (10.0, 3.0), 2: (8.0, 2.7), 3: (8.1, 2.7)}
    trainer.recipe.validate = lambda clip: dict(
        zip(trainer.recipe.best_by, values[trainer.state.step], strict=True)
    )
    trainer.run()
    assert Checkpoint.open(run_dir, "best").state["step"] == 2
    assert trainer.state.best_score == pytest.approx((8.0 / 2.7) ** 0.5)
    trainer.lock.close()
    capsys.readouterr()
    other = begin(f"trainer.ckpt_dir={run_dir}", "trainer.best_by=null", "trainer.max_steps=4")
    assert other.state.best_score == float("inf")
    assert "trainer.best_by was log_spectral_distance, dnsmos_overall and is" in (
        capsys.readouterr().out
    )


def test_a_best_score_of_another_log_spectral_distance_does_not_count(
    tiny_stages, run_dir, monkeypatch, capsys
):
    more = ["trainer.max_steps=1", "trainer.validate_every=1", f"trainer.output_dir={run_dir}"]
    trainer = begin(*tiny_stages["pretrain"], *more)
    trainer.run()
    trainer.lock.close()
    again = begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=2")
    assert again.state.best_score == trainer.state.best_score < float("inf")
    again.lock.close()
    monkeypatch.setattr("open_miipher.training.setup.DEFINITION", 3)
    other = begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=2")
    assert other.state.best_score == float("inf")
    assert "the log-spectral distance is another one" in capsys.readouterr().out


def test_a_score_that_validation_does_not_give_is_refused_at_once(tiny_stages, cleaner, run_dir):
    """A vocoder's losses do not tell which checkpoint is better."""
    with pytest.raises(UserError, match=r"best_by=loss is no .*log_spectral_distance, mel_dist"):
        begin(*tiny_stages["finetune"], "trainer.best_by=[loss,mel_distance]")
    with pytest.raises(UserError, match=r"best_by=mel_distance is no .*feature_distance, loss, l1"):
        begin(*cleaner, "trainer.best_by=[mel_distance]")
    with pytest.raises(UserError, match=r"best_by=\[\] is no score"):
        begin(*cleaner, "trainer.best_by=[]")
    assert not run_dir.exists()


def test_cudnn_tries_its_algorithms_on_the_fixed_shapes_of_training_alone(cleaner, run_dir):
    trainer = begin(*cleaner, "trainer.max_steps=1", "trainer.validate_every=1")
    seen, recipe = [], trainer.recipe
    before = torch.backends.cudnn.benchmark
    passes, validate = recipe.passes, recipe.validate

    def noted(name: str) -> None:
        seen.append((name, torch.backends.cudnn.benchmark))

    recipe.passes = lambda *a: [noted("forward"), passes(*a)][1]
    recipe.trained["cleaner"].project_in.weight.register_hook(lambda _: noted("backward"))
    recipe.validate = lambda clip: [noted("validate"), validate(clip)][1]
    trainer.run()
    assert seen[:2] == [("forward", True), ("backward", True)]
    assert ("validate", False) in seen
    assert torch.backends.cudnn.benchmark == before


@pytest.mark.parametrize(("amp", "is_rounded"), [("bf16", False), ("no", True)])
def test_what_is_float32_beside_autocast_is_so_backward_too(cleaner, run_dir, amp, is_rounded):
    trainer = begin(*cleaner, f"trainer.amp={amp}", "trainer.max_steps=1")
    seen = []
    weight = trainer.recipe.trained["cleaner"].project_in.weight
    weight.register_hook(lambda _: seen.append(torch.backends.cudnn.allow_tf32))
    trainer.step()
    assert seen == [is_rounded]
    assert torch.backends.cudnn.allow_tf32
