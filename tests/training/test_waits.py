"""What a step waits for: nothing, unless it is logged."""

from itertools import islice

import pytest
import torch
import waits

from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import Trainer, prepare


def begin(*overrides: str) -> Trainer:
    return prepare(compose_run(list(overrides)), start("cpu"))


def test_the_counter_hears_what_waits():
    x = torch.tensor([1.0, 0.0])
    acts = (
        lambda: float(x[0]),
        lambda: bool(x[0]),
        lambda: x.tolist(),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: torch.equal(x, x),
        lambda: x.cpu(),
    )
    for act in acts:
        with waits.counted() as seen:
            act()
        assert seen.total() == 1
    with waits.counted() as seen:
        torch.where(x > 0, x, 0.0).sum().isfinite()
    assert not seen


@pytest.mark.parametrize("stage", ["cleaner", "pretrain", "wavenext2", "finetune", "waveform"])
def test_a_step_waits_for_nothing_and_a_line_once(tiny_stages, tmp_path, stage):
    trainer = begin(*tiny_stages[stage], f"trainer.output_dir={tmp_path}", "trainer.max_steps=9")
    trainer.batches = iter(list(islice(trainer.batches, 4)))  # the loader works on the CPU
    trainer.step()  # makes what is made once
    with waits.counted() as seen:
        trainer.step()
        trainer.step()
    assert not seen
    with waits.counted() as seen:
        trainer.step()
        trainer.read()
    assert seen.total() == 1
