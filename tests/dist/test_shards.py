"""Two ranks train from object storage: the line drops, and nothing is missed, repeated or changed."""

import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import s3
from pairs import write_shards

from open_miipher.shards import Storage, read_index

pytestmark = pytest.mark.dist

SHARDS = [5, 3, 6, 2]  # 16 pairs: four steps of four an epoch
STOP, STEPS = 3, 8  # in the middle of the first epoch, and behind the second


def settings(output_dir: Path, *more: str) -> list[str]:
    return [
        "model=demo_feature_cleaner",
        "model.cleaner.num_blocks=1",
        "data=preprocessed",
        "data.crop_seconds=0.4",
        "trainer.batch_size=4",
        "trainer.num_workers=0",
        "trainer.sample_every=0",
        "trainer.device=cpu",
        "trainer.log_every=1",
        f"trainer.output_dir={output_dir}",
        f"trainer.max_steps={STEPS}",
        *more,
    ]


def drop_later(line: s3.Line, num_reads: int, wait_until, at_mend: list[int]) -> threading.Thread:
    """Cut the line once so many answers went through, for three seconds."""

    def drop() -> None:
        wait_until(lambda: len(line.read) >= num_reads)
        line.cut()
        threading.Event().wait(3.0)
        at_mend.append(len(line.read))
        line.mend()

    thread = threading.Thread(target=drop)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_dropped_line_and_a_resume_change_nothing(
    run_script, wait_until, end_of, tmp_path, monkeypatch
):
    train = partial(run_script, "src/train.py", ranks=2)
    urls = write_shards(tmp_path / "shards", SHARDS)
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    local = tmp_path / "local"
    train(*settings(local, f"data.train_urls={tmp_path / 'shards'}"))

    with s3.running_store() as store:
        uris = [store.upload(url, f"train/{Path(url).name}") for url in urls]
        manifest = tmp_path / "train.txt"
        manifest.write_text("\n".join(uris) + "\n")
        line, remote = s3.Line(store), tmp_path / "remote"
        more = ["data.is_s3=true", f"data.s3.endpoint_url={line.endpoint_url}"]
        first = settings(remote, f"data.train_urls={manifest}", *more)
        num_at_start = 2 * (len(SHARDS) + 1)  # each rank: every shard's end, and the first pair
        at_mend: list[int] = []
        drop = drop_later(line, num_at_start + 2, wait_until, at_mend)
        train(*first, f"trainer.max_steps={STOP}")
        drop.join()
        drop = drop_later(line, len(line.read) + num_at_start + 6, wait_until, at_mend)
        output = train(f"trainer.ckpt_dir={remote}", f"trainer.max_steps={STEPS}").stdout
        drop.join()
    assert f"resumed from {(remote / 'ckpt').resolve()}/step-0000000{STOP}" in output
    assert "starting epoch" not in output
    assert end_of(remote) == end_of(local)

    expected = Counter()
    for url in urls:
        bounds = read_index(Storage(), url).bounds
        for start, end in zip(bounds, bounds[1:], strict=False):
            expected[f"/bucket/train/{Path(url).name}", f"bytes={start}-{end - 1}"] = 2
    expected[next(iter(expected))] += 4  # two runs of two ranks look at it when they start
    reads = Counter(line.read)
    assert {place: reads[place] for place in expected} == expected
    assert reads.total() == expected.total() + 2 * 2 * len(SHARDS)  # the shards' ends
    assert at_mend[0] < num_at_start + 4 * STOP
    assert at_mend[1] < reads.total()  # the second drop was inside training, too
