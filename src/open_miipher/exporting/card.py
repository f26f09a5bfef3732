"""The model card of an exported folder: README.md, as the hub shows it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint, Content
from open_miipher.encoders.licences import LICENCES
from open_miipher.index import METADATA_NAME, read_index

CARD = "README.md"
_INPUT = "input_"  # before a metric's name: of what was restored


@dataclass(frozen=True)
class Said:
    """What a card says that no checkpoint knows.

    Attributes:
        name: of the model, such as its id on the hub; None: the configuration's.
        licence: of the weights, by the hub's identifier (`mit`, `cc-by-4.0`); None: not stated.
        results: summary.json of src/evaluate.py; None: nothing was measured.
    """

    name: str | None = None
    licence: str | None = None
    results: Path | None = None


def card_of(checkpoint: Checkpoint, content: Content, said: Said) -> str:
    """Write a model card from configuration, index and results.

    Args:
        checkpoint: that is exported.
        content: what is written of it.
        said: what else is to be said.

    Raises:
        UserError: the results cannot be read.
    """
    config = checkpoint.config
    name = said.name or str(config["name"])
    base = _base_model(content)
    head = {
        "license": said.licence,
        "base_model": base if base in LICENCES else None,
        "pipeline_tag": "audio-to-audio",
        "library_name": "open-miipher-2",
        "tags": ["speech-restoration", "speech-enhancement"],
    }
    front = yaml.safe_dump({k: v for k, v in head.items() if v is not None}, sort_keys=False)
    sections = [
        f"# {name}",
        _what(checkpoint, content),
        "## Use",
        _USE.format(name=said.name or "FOLDER"),
        "## Training",
        "\n".join(f"- {line}" for line in _training(checkpoint)),
    ]
    if said.results is not None:
        sections += ["## Results", _results(said.results)]
    sections += ["## Licence", _licence(said.licence, base)]
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


def _training(checkpoint: Checkpoint) -> list[str]:
    config, state = checkpoint.config, checkpoint.state
    lines = [f"{state['step']} steps"]
    if "num_items" in state:
        lines[0] += f", in epoch {state.get('epoch', 0) + 1} of {state['num_items']} items"
    data = config.get("data", {})
    if "sample_rate" in data:
        crops = data.get("crop_seconds")
        lines.append(f"audio at {data['sample_rate']} Hz" + (f", crops of {crops} s" * bool(crops)))
    train = data.get("train") or {}
    for key, what in (("dir_list", "speech"), ("noise_dir_list", "noise")):
        counted = _counted(train.get(key) or [])
        if counted:
            lines.append(f"{what}: {counted}")
    stages = (data.get("degradation") or {}).get("stages") or {}
    if stages:
        lines.append(f"degradations: {', '.join(stages)}")
    return lines


def _counted(folders: list[str]) -> str:
    """Return files, hours and speakers of indexes that are still here; nothing if none is."""
    indexes = [read_index(f) for f in folders if (Path(f) / METADATA_NAME).exists()]
    if not indexes:
        return ""
    seconds = sum(float((i.columns.num_frames / i.columns.sample_rate).sum()) for i in indexes)
    text = f"{sum(map(len, indexes))} files, {seconds / 3600:.2f} hours"
    named = [i for i in indexes if "speaker" in i.columns.extra_names]
    if len(named) < len(indexes):
        return text
    return f"{text}, {len({entry.extra['speaker'] for i in named for entry in i})} speakers"


def _results(path: Path) -> str:
    """Format summary.json: means with their 95 % intervals, restored beside input."""
    try:
        summary: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = [name for name in summary if not name.startswith(_INPUT)]
        rows = [
            f"| {name} | {_interval(summary.get(_INPUT + name))} | {_interval(summary[name])} | "
            f"{int(summary[name]['n'])} |"
            for name in names
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no summary.json of src/evaluate.py") from error
    header = "| metric | input | restored | files |\n|---|---|---|---|"
    return "\n".join(["Means, with 95 % bootstrap intervals.", "", header, *rows])


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
