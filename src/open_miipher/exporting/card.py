"""The model card of an exported folder: README.md, as the hub shows it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint, Content
from open_miipher.encoders.licences import LICENCES
from open_miipher.index import METADATA_NAME, read_index

CARD = "README.md"
TRAINING = "training"  # in the state of what was exported: see `training_of`
_INPUT = "input_"  # before a metric's name: of what was restored
_FOLDERS = {
    "dir_list": "recordings",
    "noise_dir_list": "noise",
    "rir_dir_list": "room impulse responses",
}


def card_of(
    checkpoint: Checkpoint,
    content: Content,
    name: str | None = None,
    licence: str | None = None,
    results: Path | None = None,
) -> str:
    """Write a model card from configuration, index and results.

    Args:
        checkpoint: that is exported.
        content: what is written of it, with `training_of` in its state.
        name: of the model, such as its id on the hub; None: the configuration's.
        licence: of the weights, by the hub's identifier; None: not stated.
        results: summary.json of src/evaluate.py; None: nothing was measured.

    Raises:
        UserError: the results cannot be read.
    """
    base = _base_model(content)
    restores = _restores(content)
    head = {
        "license": licence,
        "base_model": base if base in LICENCES else None,
        "pipeline_tag": "audio-to-audio" if restores else None,
        "library_name": "open-miipher-2",
        "tags": ["speech-restoration", "speech-enhancement"] if restores else None,
    }
    front = yaml.safe_dump({k: v for k, v in head.items() if v is not None}, sort_keys=False)
    sections = [
        f"# {name or checkpoint.config['name']}",
        _what(checkpoint, content),
        "## Use",
        _USE.format(name=name or "FOLDER") if restores else _ANY_USE,
        "## Training",
        "\n".join(f"- {line}" for line in content.state[TRAINING]),
    ]
    if results is not None:
        sections += ["## Results", _results(results)]
    sections += ["## Licence", _licence(licence, base)]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


_USE = """\
With Open-Miipher-2 installed:

```python
from open_miipher import Restorer

restorer = Restorer.from_pretrained("{name}")
restored, rate = restorer.restore(waveform, sample_rate)
```

Or with a copy of this folder: `open-miipher restore --ckpt-dir FOLDER --input-audio-dir noisy
--output-dir clean`."""
_ANY_USE = (
    "Give this folder to Open-Miipher-2 wherever it takes a checkpoint (`--ckpt-dir FOLDER`)."
)


def _restores(content: Content) -> bool:
    """Whether a restorer can be built of the networks: see `restoration.Chain`."""
    if "backbone" in content.networks:
        return not content.config["model"].get("unconditional")
    return {"cleaner", "generator"} <= content.networks.keys()


def _what(checkpoint: Checkpoint, content: Content) -> str:
    parts = [f"{part} `{b.spec['name']}`" for part, b in content.networks.items()]
    count = sum(t.numel() for tensors in content.weights.values() for t in tensors.values())
    return (
        f"A model trained with Open-Miipher-2 (`model={checkpoint.config['name']}`): "
        f"{', '.join(parts)}; {count / 1e6:.2f} M trained weights. This folder holds what using "
        "the model needs, and not the state of its training."
    )


def _base_model(content: Content) -> str | None:
    """Return the source of the pretrained encoder, if there is one."""
    encoder = content.networks.get("encoder")
    return None if encoder is None else encoder.spec.get("source")


def training_of(checkpoint: Checkpoint) -> list[str]:
    """Return lines on steps and data; those of a checkpoint that was itself exported stay."""
    config, state = checkpoint.config, checkpoint.state
    if TRAINING in state:
        return list(state[TRAINING])
    data = config.get("data") or {}
    lines = [f"{state['step']} steps"]
    if "num_items" in state:
        epoch, num_items = state["epoch"], state["num_items"]
        lines[0] += f", in epoch {epoch + 1} of {num_items} items"
        if "crop_seconds" in data:
            seconds = (epoch * num_items + state["samples_consumed"]) * data["crop_seconds"]
            lines[0] += f": at most {seconds / 3600:.1f} hours heard"
    if "sample_rate" in data:
        crops = data.get("crop_seconds")
        lines.append(f"audio at {data['sample_rate']} Hz" + (f", crops of {crops} s" * bool(crops)))
    train = data.get("train") or {}
    for key, what in _FOLDERS.items():
        lines += [f"{what}: {_counted(Path(folder))}" for folder in train.get(key) or []]
    urls = data.get("train_urls") or []
    lines += [f"shards: `{_tail(url)}`" for url in ([urls] if isinstance(urls, str) else urls)]
    stages = (data.get("degradation") or {}).get("stages") or {}
    if stages:
        lines.append(f"degradations: {', '.join(stages)}")
    return lines


def _counted(folder: Path) -> str:
    """Return files, hours and speakers of an index, if it is still here."""
    name = f"`{_tail(str(folder))}`"
    if not (folder / METADATA_NAME).exists():
        return f"{name} (not here when this was exported, so not counted)"
    index = read_index(folder)
    hours = float((index.columns.num_frames / index.columns.sample_rate).sum()) / 3600
    text = f"{name}, {len(index)} files, {hours:.2f} hours"
    if "speaker" not in index.columns.extra_names:
        return text
    return f"{text}, {len({entry.extra['speaker'] for entry in index})} speakers"


def _tail(place: str) -> str:
    """Return the last two parts of a path, which name data and not where a machine keeps it."""
    return "/".join(place.rstrip("/").split("/")[-2:])


def _results(path: Path) -> str:
    """Format summary.json: means with their 95 % intervals, input beside what was restored."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        systems, paired = {"restored": summary}, {}
        if summary.keys() == {"systems", "paired"}:
            systems, paired = summary["systems"], summary["paired"]
        inputs: dict[str, Any] = {}
        for values in systems.values():
            inputs |= {n.removeprefix(_INPUT): v for n, v in values.items() if n[:6] == _INPUT}
        columns = {"input": inputs} if inputs else {}
        columns |= systems
        columns |= {f"{name} - {next(iter(systems))}": values for name, values in paired.items()}
        names = dict.fromkeys(n for values in systems.values() for n in values if n[:6] != _INPUT)
        rows = [
            [name, *(_interval(values.get(name)) for values in columns.values())] for name in names
        ]
        counts = [max(int(v[name]["n"]) for v in systems.values() if name in v) for name in names]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no summary.json of src/evaluate.py") from error
    if not rows:
        raise UserError(f"{path} has no results")
    header = ["metric", *columns, "files"]
    lines = [header, ["---"] * len(header)]
    lines += [[*row, str(count)] for row, count in zip(rows, counts, strict=True)]
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(["Means, with 95 % bootstrap intervals.", "", *table])


def _interval(value: Mapping[str, float] | None) -> str:
    return (
        "-" if value is None else f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    )


def _licence(licence: str | None, base: str | None) -> str:
    text = f"Of the weights: {licence}." if licence else "Of the weights: not stated yet."
    if base is None:
        return text
    stated = LICENCES.get(base, "see its page on the hub")
    return f"{text} They stand on the encoder `{base}`: {stated}."
