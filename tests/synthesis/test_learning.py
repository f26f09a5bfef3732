"""The text-to-speech model learns a made-up language, in which each letter is a tone."""

import json
import random
from pathlib import Path

import pytest
import torch
from tiny_tts import make_speech, overrides, words

from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_run
from open_miipher.data import TokenDataset
from open_miipher.distributed import start
from open_miipher.index import Entry, read_index, write_index
from open_miipher.synthesis import SamplingConfig
from open_miipher.synthesis.speaking import Speaker
from open_miipher.training import prepare

pytestmark = pytest.mark.slow

SIZES = [
    "model.network.encoder={layers: 2, heads: 4, width: 64}",
    "model.network.decoder={layers: 2, heads: 4, width: 64}",
    "data.augmentation_factor=1",
    "trainer.batch_size=16",
    "trainer.log_every=50",
    "trainer.ema.decay=0.9",
    "optimizer.lr=3e-3",
    "optimizer.warmup_steps=30",
    "optimizer.weight_decay=0.01",
]


def trained(spoken: Path, folder: Path, *more: str) -> tuple[Speaker, TokenDataset, float]:
    """Train; returns the model, its training data and its last validation loss."""
    given = overrides(spoken, *SIZES, f"trainer.output_dir={folder}", *more)
    trainer = prepare(compose_run(given), start("cpu"))
    trainer.run()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    loss = [row["loss"] for row in rows if row["split"] == "validation"][-1]
    return Speaker.from_checkpoint(Checkpoint.open(folder)), trainer_data(folder, given), loss


def trainer_data(folder: Path, given: list[str]) -> TokenDataset:
    run = compose_run([*given])
    run.data.make(folder, start("cpu"), print)
    return run.data.train(0)


def share_recovered(speaker: Speaker, data: TokenDataset, sampling: SamplingConfig) -> float:
    """Say the texts of a set; returns the share of its codes that are said, each at its place."""
    texts = [data.store.texts[k].decode() for k in range(len(data.store))]
    said = speaker.tokens(texts, range(len(texts)), sampling)
    right = total = 0
    for number, own in enumerate(said):
        codes = torch.from_numpy(data.store.codes(number)).long()
        shortest = min(len(codes), len(own))
        right += int((codes[:shortest] == own[:shortest]).sum())
        total += 2 * max(len(codes), len(own))
    return right / total


def test_fifty_utterances_are_learned_by_heart_and_said_again(spoken, tmp_path):
    root = make_speech(tmp_path / "fifty", words(50, seed=3))
    more = [f"data.train.dir_list=[{root}]", "trainer.max_steps=300", "trainer.validate_every=300"]
    speaker, data, _ = trained(spoken, tmp_path / "run", *more)
    assert data.num_items == 50
    greedy = share_recovered(speaker, data, SamplingConfig(do_sample=False))
    drawn = share_recovered(speaker, data, SamplingConfig(num_beams=4, seed=1))
    print(f"recovered: {greedy:.3f} of the codes, {drawn:.3f} by draws")
    assert greedy > 0.99
    assert drawn > 0.95


def test_texts_that_were_not_seen_are_worse_guessed_by_a_model_of_shuffled_texts(spoken, tmp_path):
    drawn = words(416, seed=4, shortest=3, longest=5)
    right = make_speech(tmp_path / "right", drawn[16:])
    shuffled = make_speech(tmp_path / "shuffled", drawn[16:])
    entries = list(read_index(shuffled))
    texts = [entry.extra["text"] for entry in entries]
    random.Random(0).shuffle(texts)
    mixed = [
        Entry(e.file_path, e.sample_rate, e.num_frames, e.num_channels, {"text": text})
        for e, text in zip(entries, texts, strict=True)
    ]
    write_index(shuffled, mixed)
    test = make_speech(tmp_path / "test", drawn[:16])
    more = [f"data.test.dir_list=[{test}]", "data.test.num_clips=16", "data.seconds=0.4"]
    more += ["trainer.batch_size=32", "trainer.max_steps=300", "trainer.validate_every=300"]
    losses = {}
    for root in (right, shuffled):
        given = [*more, f"data.train.dir_list=[{root}]"]
        *_, losses[root.name] = trained(spoken, tmp_path / f"run-{root.name}", *given)
    print(f"cross-entropy of unseen texts: {losses}")
    assert losses["right"] < 0.75 * losses["shuffled"]
