import json
import os
import resource
import shutil
import signal
import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors.torch
import torch

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import (
    Checkpoint,
    Content,
    complete_checkpoints,
    folder,
    load_weights,
    prune,
    remove_leftovers,
    resolve_checkpoint,
    set_aside,
    snapshot,
    write_checkpoint,
)


def content(step, value=1.0):
    return Content(
        config={"model": {"encoder": {"name": "log_mel"}}, "π": [1, 2]},
        state={"step": step, "epoch": 3},
        weights={"generator": {"w": torch.full((4, 4), value), "b": torch.arange(3.0)[::2]}},
        ema={"generator": {"w": torch.full((4, 4), value / 2)}},
        training={"optimizers": {"generator": {"state": {0: {"m": torch.ones(2)}}, "lr": 0.1}}},
    )


def test_round_trip(tmp_path):
    root = tmp_path / "ckpt"
    write_checkpoint(root, content(20))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.path.name == "step-00000020"
    assert checkpoint.config == {"model": {"encoder": {"name": "log_mel"}}, "π": [1, 2]}
    assert checkpoint.state["step"] == 20
    assert checkpoint.names == ["generator"]
    assert torch.equal(checkpoint.weights("generator")["b"], torch.tensor([0.0, 2.0]))
    assert torch.equal(checkpoint.weights("generator", ema=True)["w"], torch.full((4, 4), 0.5))
    saved = checkpoint.training_state()["optimizers"]["generator"]["state"][0]["m"]
    assert torch.equal(saved, torch.ones(2))


def test_every_path_a_user_may_give(tmp_path):
    root = tmp_path / "run" / "ckpt"
    folder = write_checkpoint(root, content(20))
    copy = tmp_path / "copy"
    shutil.copytree(root / "latest", copy)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "run", moved, symlinks=True)
    for path in (tmp_path / "run", root, root / "latest", folder):
        assert resolve_checkpoint(path) == folder.resolve()
    assert resolve_checkpoint(copy) == copy
    assert resolve_checkpoint(moved) == moved / "ckpt" / "step-00000020"
    assert os.readlink(root / "latest") == "step-00000020"


def test_the_best_or_a_step_is_taken_where_it_is_asked_for(tmp_path):
    root = tmp_path / "run" / "ckpt"
    for step in (10, 20, 30):
        write_checkpoint(root, content(step), best=step == 20)
    for path in (tmp_path / "run", root):
        steps = [Checkpoint.open(path, which).state["step"] for which in ("newest", "best", "10")]
        assert steps == [30, 20, 10]
        with pytest.raises(UserError, match=r"no checkpoint of step 15; it has .* 10, 20, 30"):
            Checkpoint.open(path, "15")
    assert Checkpoint.open(root / "best", "newest").state["step"] == 20
    assert Checkpoint.open(tmp_path / "run").described == f"{root}/step-00000030 (step 30, newest)"
    assert Checkpoint.open(root / "best").described == f"{root}/step-00000020 (step 20, best)"
    with pytest.raises(UserError, match="choose newest, best, or a step"):
        Checkpoint.open(root, "latest")
    (root / "best").unlink()
    with pytest.raises(UserError, match="has no best checkpoint"):
        Checkpoint.open(root, "best")


def test_a_branch_that_is_left_is_set_aside_and_can_be_taken_up_again(tmp_path):
    """Its `best` came from the future of the run that went on, and its steps passed for its own."""
    root = tmp_path.resolve() / "ckpt"
    saved = [write_checkpoint(root, content(step), best=step == 30) for step in (10, 20, 30)]
    assert set_aside(root, saved[-1]) is None
    folder = set_aside(root, saved[0])
    assert folder.name.startswith("abandoned-")
    assert [path.name for path in complete_checkpoints(root)] == ["step-00000010"]
    assert (root / "latest").resolve() == saved[0]
    assert not (root / "best").exists()
    moved = complete_checkpoints(folder)
    assert [path.name for path in moved] == ["step-00000020", "step-00000030"]
    assert (folder / "best").resolve() == moved[1]
    write_checkpoint(root, content(15), best=True)
    prune(root, 1)
    assert complete_checkpoints(folder) == moved
    write_checkpoint(root, content(16))
    again = root / "abandoned-again"
    folder.rename(again)
    other = set_aside(root, again / "step-00000030")
    assert [path.name for path in complete_checkpoints(other)] == ["step-00000015", "step-00000016"]


def test_links_follow_and_old_ones_go(tmp_path):
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, content(step), best=step == 10)
        prune(tmp_path, keep_last=2)
    steps = sorted(p.name for p in tmp_path.iterdir())
    assert steps == ["best", "latest", "step-00000010", "step-00000030", "step-00000040"]
    assert (tmp_path / "latest").resolve().name == "step-00000040"
    assert (tmp_path / "best").resolve().name == "step-00000010"


def test_same_step_again_replaces_it(tmp_path):
    write_checkpoint(tmp_path, content(10, 1.0))
    write_checkpoint(tmp_path, content(10, 2.0))
    assert Checkpoint.open(tmp_path).weights("generator")["w"][0, 0] == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000010"]


def test_a_run_copied_without_links_goes_on(tmp_path):
    write_checkpoint(tmp_path / "a", content(10), best=True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # follows links: latest becomes a folder
    assert not (tmp_path / "b" / "latest").is_symlink()
    assert resolve_checkpoint(tmp_path / "b").name in ("latest", "best", "step-00000010")
    write_checkpoint(tmp_path / "b", content(20), best=True)
    assert os.readlink(tmp_path / "b" / "latest") == "step-00000020"
    assert resolve_checkpoint(tmp_path / "b").name == "step-00000020"
    assert len(complete_checkpoints(tmp_path / "b")) == 2


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_damage_is_named(tmp_path, damage):
    folder = write_checkpoint(tmp_path, content(10))
    file = folder / "generator.safetensors"
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data[:-5] if damage == "truncate" else data[:-1] + b"\xff")
    with pytest.raises(UserError, match=r"generator\.safetensors"):
        Checkpoint.open(folder).weights("generator")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("state.json", b"\xb4"),
        ("state.json", b"["),
        ("files.json", b"[]"),
        ("files.json", b"3"),
        ("files.json", b'{"state.json": {"bytes": 1}}'),
        ("files.json", b'{"state.json": 5}'),
        ("files.json", b"{}"),
    ],
)
def test_a_damaged_list_or_order_gives_the_checkpoint_before(tmp_path, name, data):
    write_checkpoint(tmp_path, content(10))
    damaged = write_checkpoint(tmp_path, content(20))
    size = (damaged / name).stat().st_size if name == "state.json" else 0
    (damaged / name).write_bytes(data.ljust(size))
    assert Checkpoint.open(tmp_path).path.name == "step-00000010"
    with pytest.raises(UserError, match=f"{damaged} is damaged: (state|files).json is "):
        Checkpoint.open(damaged)
    assert write_checkpoint(tmp_path, content(30)).name == "step-00000030"


def test_a_file_that_the_list_lacks_is_damage(tmp_path):
    folder = write_checkpoint(tmp_path, content(10))
    listed = json.loads((folder / "files.json").read_text())
    del listed["config.yaml"]
    (folder / "files.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        Checkpoint.open(folder)


def test_networks_of_another_version_are_a_sentence(tmp_path):
    folder = write_checkpoint(tmp_path, content(10))
    listed = json.loads((folder / "files.json").read_text())
    networks = b'{"generator": {"kind": "vocoder", "spec": {}, "new": 1}}'
    (folder / "networks.json").write_bytes(networks)
    listed["networks.json"] = {"bytes": len(networks), "sha256": sha256(networks).hexdigest()}
    (folder / "files.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="another version of this program"):
        Checkpoint.open(folder)


def test_a_link_whose_folder_is_being_replaced_gives_the_newest(tmp_path):
    write_checkpoint(tmp_path, content(10))
    folder = write_checkpoint(tmp_path, content(20))
    folder.rename(tmp_path / ".step-00000020.5.old.tmp")
    assert resolve_checkpoint(tmp_path / "latest").name == "step-00000010"


def test_the_newest_complete_one_loads(tmp_path):
    write_checkpoint(tmp_path, content(10))
    newer = write_checkpoint(tmp_path, content(20))
    (newer / "training.pt").write_bytes(b"")
    assert resolve_checkpoint(tmp_path).name == "step-00000010"


@pytest.mark.parametrize("path", ["nothing", "empty", "half"])
def test_no_checkpoint_is_one_sentence(tmp_path, path):
    (tmp_path / "empty").mkdir()
    half = write_checkpoint(tmp_path / "half", content(10))
    (half / "files.json").unlink()
    (tmp_path / "half" / "latest").unlink()
    with pytest.raises(UserError, match=path):
        Checkpoint.open(tmp_path / path)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    bad = Content({}, {"step": 1}, {}, {}, {"optimizers": Evil()})
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, bad))
    with pytest.raises(Exception, match="Weights only"):
        checkpoint.training_state()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["weights", "training"])
def test_a_full_disk_loses_nothing(tmp_path, part):
    """A file size limit of the kernel stands for the full disk: the write fails for real."""
    write_checkpoint(tmp_path, content(10))
    large = Content({}, {"step": 20}, {})
    large = replace(large, **{part: {"generator": {"w": torch.zeros(100_000)}}})
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write the checkpoint.*step-00000010"):
            write_checkpoint(tmp_path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000010"]
    assert Checkpoint.open(tmp_path).state["step"] == 10


def test_a_snapshot_keeps_what_was_and_copies_what_is_shared_once():
    network, moment = torch.nn.Linear(2, 2), torch.ones(3)
    weights = network.state_dict()
    average = {**weights, "bias": torch.zeros(2)}
    training = {"optimizers": {"a": {"state": {0: [moment]}, "param_groups": [{"lr": 0.1}]}}}
    kept = snapshot(Content({}, {"step": 1}, {"a": weights}, {"a": average}, training))
    before = weights["weight"].clone()
    with torch.no_grad():
        network.weight.add_(1.0)
        moment.mul_(2.0)
    assert torch.equal(kept.weights["a"]["weight"], before)
    assert kept.ema["a"]["weight"] is kept.weights["a"]["weight"]
    assert torch.equal(kept.ema["a"]["bias"], torch.zeros(2))
    own = kept.training["optimizers"]["a"]
    assert torch.equal(own["state"][0][0], torch.ones(3))
    assert own["param_groups"] == [{"lr": 0.1}]


def test_leftovers_of_killed_runs_go(tmp_path):
    write_checkpoint(tmp_path, content(10))
    (tmp_path / ".step-00000020.123.tmp").mkdir()
    (tmp_path / ".latest.123.tmp").symlink_to("nowhere")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000010"]


def test_the_newest_is_the_one_saved_last_whatever_clocks_and_steps_say(tmp_path, monkeypatch):
    """A run that went back to step 10 and on from there is where it was last."""
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, content(step))
    monkeypatch.setattr("time.time", lambda: 0.0)  # a clock that was set back
    write_checkpoint(tmp_path, content(15))
    assert resolve_checkpoint(tmp_path).name == "step-00000015"
    write_checkpoint(tmp_path, content(20, 5.0))
    names = [folder.name for folder in complete_checkpoints(tmp_path)]
    assert names == ["step-00000010", "step-00000030", "step-00000015", "step-00000020"]


@pytest.mark.skipif(shutil.which("chattr") is None, reason="chattr makes a file that cannot go")
def test_what_cannot_be_removed_is_told_and_ends_nothing(tmp_path):
    """As on NFS while somebody reads: root may remove anything but an immutable file."""
    old = write_checkpoint(tmp_path, content(10))
    fixed = old / "training.pt"
    if subprocess.run(["chattr", "+i", fixed], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this file system or sandbox has no immutable files")
    try:
        for step in (20, 30):
            write_checkpoint(tmp_path, content(step))
        [told] = prune(tmp_path, keep_last=2)
        assert "cannot be removed: Operation not permitted" in told
        again = prune(tmp_path, keep_last=2)
        assert again == [told]
        assert resolve_checkpoint(tmp_path).name == "step-00000030"
    finally:
        left = [*tmp_path.glob(".*.tmp/training.pt"), fixed]
        subprocess.run(["chattr", "-i", *(path for path in left if path.exists())], check=True)
    assert prune(tmp_path, keep_last=2) == []
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_that_cannot_be_renamed_or_removed_is_a_sentence(tmp_path, monkeypatch):
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, content(step))

    def refuse(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        [told] = prune(tmp_path, keep_last=2)
    assert told.endswith("step-00000010 cannot be removed: Device or resource busy")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        [told] = prune(tmp_path, keep_last=2)
    assert "cannot be removed: Device or resource busy" in told
    assert prune(tmp_path, keep_last=2) == []
    assert len(complete_checkpoints(tmp_path)) == 2


def test_tensors_that_share_storage_are_saved_under_both_names(tmp_path):
    network = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    network["b"].weight = network["a"].weight
    write_checkpoint(tmp_path, Content({}, {"step": 1}, {"tied": network.state_dict()}))
    weights = Checkpoint.open(tmp_path).weights("tied")
    assert torch.equal(weights["a.weight"], weights["b.weight"])
    other = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    load_weights(other, weights, "here")
    assert torch.equal(other["b"].weight, network["a"].weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_its_own_library_reads_what_is_written(tmp_path, dtype):
    tensors = {
        "scalar": torch.ones((), dtype=dtype),
        "none": torch.ones(0, 3, dtype=dtype),
        "turned": torch.arange(6).reshape(2, 3).to(dtype).T,
    }
    write_checkpoint(tmp_path, Content({}, {"step": 1}, {"a": tensors}))
    read = safetensors.torch.load_file(tmp_path / "latest/a.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor)


def test_files_are_hashed_once_by_whoever_verifies(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, content(10))
    verified = Checkpoint.open(tmp_path).verify()
    monkeypatch.setattr(folder, "_sha256", lambda file: pytest.fail(f"{file} is hashed again"))
    assert verified.weights("generator", ema=True)["w"][0, 0] == 0.5
    assert verified.training_state()["optimizers"]["generator"]["lr"] == 0.1
    monkeypatch.undo()
    data = (tmp_path / "latest/training.pt").read_bytes()
    (tmp_path / "latest/training.pt").write_bytes(data[:-1] + b"\xff")
    with pytest.raises(UserError, match=r"training\.pt is damaged"):
        Checkpoint.open(tmp_path).verify()


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from open_miipher.checkpoint import Checkpoint, Content, write_checkpoint

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

tensors = {str(k): torch.full((2 << 20,), float(k)) for k in range(14)}  # 8 MiB each
moments = {"state": {k: {"m": torch.full((2 << 20,), 1.0)} for k in range(7)}}
before = peak()
write_checkpoint(Path(sys.argv[1]), Content({}, {"step": 1}, {"a": tensors}, training=moments))
print(peak() - before)
"""


def test_writing_takes_little_memory_beyond_the_state(run_script, tmp_path):
    """168 MiB of weights and moments; before, they were in memory twice more."""
    (tmp_path / "memory.py").write_text(MEMORY)
    done = run_script(tmp_path / "memory.py", tmp_path)
    assert float(done.stdout) < 40  # MiB: one tensor is 8


def test_an_earlier_version_s_checkpoint_says_how_to_convert_it(tmp_path):
    written = write_checkpoint(tmp_path, content(10))
    listing = json.loads((written / "files.json").read_text())
    del listing["networks.json"]
    (written / "files.json").write_text(json.dumps(listing))
    (written / "networks.json").unlink()
    with pytest.raises(UserError, match=r"earlier version.*python src/convert_checkpoint\.py"):
        Checkpoint.open(tmp_path)
