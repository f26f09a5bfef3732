"""Runs whose pairs come from shards: as any other run, and what is damaged is named."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from pairs import pair, write_shard, write_shards

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_run
from open_miipher.distributed import World, start
from open_miipher.training import Trainer, prepare


def begin(*overrides: str) -> Trainer:
    return prepare(compose_run(list(overrides)), start("cpu"))


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def common(tmp_path, run_dir) -> list[str]:
    write_shards(tmp_path / "train", [4, 3])
    return [
        "model=demo_feature_cleaner",
        "model.cleaner.num_blocks=1",
        "data=preprocessed",
        f"data.train_urls={tmp_path}/train",
        "data.crop_seconds=0.4",
        "trainer.batch_size=2",
        "trainer.num_workers=0",
        "trainer.sample_every=0",
        "trainer.device=cpu",
        "trainer.log_every=2",
        f"trainer.output_dir={run_dir}",
    ]


def test_a_run_validates_stops_and_goes_on(common, run_dir, tmp_path, end_of):
    write_shards(tmp_path / "val", [3], seconds=0.3)
    val = [f"data.val_urls={tmp_path}/val", "data.test.num_clips=2", "trainer.validate_every=2"]
    begin(*common, *val, "trainer.max_steps=6", f"trainer.output_dir={tmp_path}/whole").run()
    begin(*common, *val, "trainer.max_steps=2").run()
    position = Checkpoint.open(run_dir).state
    assert (position["epoch"], position["samples_consumed"], position["num_items"]) == (0, 4, 7)
    begin(f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=6").run()
    rows, weights = end_of(run_dir)
    assert (rows, weights) == end_of(tmp_path / "whole")
    assert [row["step"] for row in rows if row["split"] == "validation"] == [2, 4, 6]


def test_what_is_broken_is_named_in_the_log(common, run_dir, tmp_path, capsys):
    bad = {key: data for key, data in pair(50).items() if key != "sr.index"}
    write_shard(tmp_path / "train" / "some.tar", {"good": pair(51), "bad": bad})
    (tmp_path / "train" / "empty.tar").touch()
    with pytest.raises(UserError, match=r"empty\.tar is empty; repair or remove it"):
        begin(*common, "trainer.max_steps=1")
    begin(*common, "data.max_broken_shards=1", "trainer.max_steps=5").run()
    log = (run_dir / "train.log").read_text()
    assert "warning: " in log
    assert "empty.tar is empty; this shard of data.train_urls is left out" in log
    assert "data.val_urls is empty: no validation, no samples, no best checkpoint" in log
    told = [line for line in log.splitlines() if " in making samples: " in line]
    assert len(told) >= 1
    assert "train/some.tar bad: it has no member sr.index" in told[0]
    assert capsys.readouterr().out.count(" in making samples: ") == len(told)


class Ranks(World):
    """Rank 0, and another one that sees other data."""

    def gather(self, item):
        other = isinstance(item, tuple) and item[1] and isinstance(item[1][0], tuple)
        return [item, ("elsewhere", [(3, "abc"), None])] if other else [item]


def test_ranks_that_see_different_data_say_what_each_sees(common):
    world = Ranks(0, 1, 0, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"\(7, '\w{12}'\).*rank 1 on elsewhere: \[\(3, 'abc'\)"
    ) as e:
        prepare(compose_run([*common, "trainer.max_steps=1"]), world)
    assert e.value.shared


def test_a_checkpoint_from_before_there_were_kinds_says_what_to_add(tiny_stages, run_dir):
    own = f"trainer.output_dir={run_dir}"
    begin(*tiny_stages["cleaner"], own, "trainer.max_steps=1").run()
    folder = Checkpoint.open(run_dir).path
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["data"]["name"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    files = json.loads((folder / "files.json").read_text())
    content = (folder / "config.yaml").read_bytes()
    files["config.yaml"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (folder / "files.json").write_text(json.dumps(files))
    resume = [f"trainer.ckpt_dir={run_dir}", "trainer.max_steps=2"]
    with pytest.raises(UserError, match=r"^data\.name differ between .* give each on the command"):
        compose_run(resume)
    run = compose_run([*resume, "data.name=degraded_speech"])
    assert run.data.config.train.dir_list
