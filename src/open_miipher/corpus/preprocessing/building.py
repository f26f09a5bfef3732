"""From the configuration to the runs that it asks for: one for each split that has inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from open_miipher.corpus.preprocessing.config import Preprocessing, RawSource
from open_miipher.corpus.preprocessing.inputs import RawInputs
from open_miipher.corpus.preprocessing.overlap import (
    check_apart,
    check_found_apart,
    check_splits,
)
from open_miipher.corpus.preprocessing.pieces import PieceMaker
from open_miipher.corpus.preprocessing.task import Preprocess
from open_miipher.data.building import source_degradation
from open_miipher.index import read_index

SPLITS = {"train": "train", "test": "val"}
"""Which split a section of `data` gives."""

_CHANGES_DATA = ("sample_rate", "crop_seconds", "sample_seconds", "low_cut_hz", "peak")
_CHANGES_OPTIONS = ("seed", "crops", "audio_format", "ssl_inputs", "shard_maxcount")


def output_folder(config: Preprocessing, split: str) -> Path:
    """Return where the shards of a split go."""
    options = config.options
    return Path(str(options.output_root), str(options.writer_name), split, str(options.job_id))


def build_tasks(config: Preprocessing) -> dict[Path, Preprocess]:
    """Build the runs, by output folder.

    Raises:
        UserError: a key is missing or out of range, an input is missing or wrong, or stands in both
            splits, or inputs and outputs lie inside each other.

    Warns of clean speech and impulse responses at lower rates than the pairs'.
    """
    config.check()
    data = config.data
    given: dict[str, RawSource] = {
        section: source
        for section, source in (("train", data.train), ("test", data.test))
        if source.dir_list or source.urls
    }
    output = Path(str(config.options.output_root), str(config.options.writer_name))
    for source in given.values():
        check_apart(source, output)
    inputs = {name: RawInputs(source, f"data.{name}", data) for name, source in given.items()}
    for found in inputs.values():
        check_found_apart(found, output)
    if len(inputs) == 2:
        check_splits(inputs["train"], inputs["test"])
    tasks = {}
    for section, source in given.items():
        split = SPLITS[section]
        degradation = source_degradation(
            data.degradation, source, f"data.{section}", data.sample_rate
        )
        maker = PieceMaker(data, config.options.crops, config.options.seed, degradation)
        folder = output_folder(config, split)
        identity = _identity(config, source)
        tasks[folder] = Preprocess(
            inputs[section], maker, split, folder, data, config.options, identity
        )
    return tasks


def _identity(config: Preprocessing, source: RawSource) -> dict[str, Any]:
    """Return all that changes what comes out of a recording."""
    return {
        **{f"data.{name}": getattr(config.data, name) for name in _CHANGES_DATA},
        **{f"preprocess.{name}": getattr(config.options, name) for name in _CHANGES_OPTIONS},
        **dict(_flat(asdict(config.data.degradation), "data.degradation")),
        "noise": [read_index(directory).fingerprint for directory in source.noise_dir_list],
        "rooms": [read_index(directory).fingerprint for directory in source.rir_dir_list],
    }


def _flat(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield key, list(node) if isinstance(node, tuple) else node
        return
    for name, value in node.items():
        yield from _flat(value, f"{key}.{name}")
