"""Configuration; the only module that uses Hydra."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.base.plain import from_leaves, in_quotes, leaves, nearest, same
from open_miipher.base.registry import build, from_mapping
from open_miipher.base.shipped import shipped
from open_miipher.checkpoint import NEWEST, Checkpoint, complete_checkpoints
from open_miipher.corpus.preprocessing.config import Preprocessing, PreprocessingOptions
from open_miipher.corpus.synthesising.config import SynthesisConfig
from open_miipher.data import DATA
from open_miipher.data.config import PreprocessingData
from open_miipher.recipes import named_output_dir, recipe_class
from open_miipher.training import AUTO, OptimizerConfig, Run, TrainerConfig

CONFIG_DIR = shipped("config")
_SECTIONS = {
    "train": ("name", "codec", "data", "model", "optimizer", "trainer", "generate"),
    "preprocess": ("data", "preprocess"),
}
SYNTHESIS = "synthetic_generation_cfg"
_OF_SYNTHESIS = ("dataset", "tts", "codec", "processing", "output", "logging")
_UNKNOWN_KEY = re.compile("Could not override '([^']+)'")
_UNKNOWN_CHOICE = re.compile("Could not find '[^'/]+/([^']+)' Available options in '[^']+': (.*)")
# Keys of earlier versions, with what became of them; a saved run goes on without.
_RETIRED = {
    "data.degradation.fast_codecs": "is gone, MP3 and Opus are always coded fast: leave it out"
}
# Says how this run starts and is no part of its configuration: a resume ignores the saved value.
_RESUME_KEY = "trainer.ckpt_dir"


def compose_run(overrides: Sequence[str]) -> Run:
    """Compose a run from command-line overrides, and on resume also from those of the checkpoint.

    On resume, the saved overrides come first and then the new ones, so that groups can be
    overridden too. A key that was empty (null) and was filled in when the run started keeps that
    value. With `trainer.ckpt_dir=auto`, the run in `trainer.output_dir` is resumed, or started if
    there is no checkpoint.

    Args:
        overrides: Hydra overrides, `key=value`.

    Raises:
        UserError: a group, key or value is unknown; or the configuration files changed since the
            checkpoint, in keys that the command line does not set.
    """
    given = dict(map(_parse, overrides))
    ckpt_dir = given.get(_RESUME_KEY)
    kept = [o for o in overrides if _parse(o)[0] != _RESUME_KEY]
    which = given.get("trainer.ckpt", NEWEST)  # on the command line; an old one is of init_from
    checkpoint = _resumed(ckpt_dir, which, [o for o in kept if not _is_flat(o)])
    kept = _with_network_names(kept, checkpoint)
    if checkpoint is None:
        plain = compose_plain(kept)
    else:
        plain, kept = _compose_resumed(checkpoint, kept)
    plain["trainer"]["ckpt_dir"] = ckpt_dir
    if given.get("experiment") == "finetune" and not any(_first_weights(plain)):
        raise UserError(
            "experiment=finetune starts from a trained model: give trainer.init_from=OUTPUT_DIR"
        )
    trainer = from_mapping(TrainerConfig, plain["trainer"], "trainer")
    sampled = plain.get("generate", {}).get("mel_name")  # absent from older checkpoints
    if sampled is not None and plain["model"].get("unconditional", True):
        raise UserError(
            f"generate.mel_name={sampled} chooses the mel that a vocoder is tried on: leave it "
            "out, or train one (model=diffwave_vocoder_64)"
        )
    return Run(
        name=plain["name"],
        data=build(DATA, plain["data"], key="data"),
        model=plain["model"],
        optimizers={
            network: from_mapping(OptimizerConfig, values, f"optimizer.{network}").scaled(
                trainer.lr_factor
            )
            for network, values in plain["optimizer"].items()
        },
        trainer=trainer,
        plain=plain,
        overrides=kept,
        resumed=checkpoint,
        sampled=None if sampled is None else str(sampled),
    )


def _resumed(ckpt_dir: Any, which: Any, kept: Sequence[str]) -> Checkpoint | None:
    """Open the checkpoint to resume from; for `auto`, the newest complete one in `output_dir`."""
    if ckpt_dir is None:
        return None
    if ckpt_dir != AUTO:
        checkpoint = Checkpoint.open(str(ckpt_dir), str(which))
        checkpoint.check_resumable()
        return checkpoint
    plain = compose_plain(kept)
    output_dir = plain["trainer"]["output_dir"] or named_output_dir(plain["model"])
    if output_dir is None:
        raise UserError(
            "trainer.ckpt_dir=auto resumes the run in trainer.output_dir; set trainer.output_dir"
        )
    complete = complete_checkpoints(Path(output_dir) / "ckpt")
    return Checkpoint.open(complete[-1]) if complete else None


def _is_flat(override: str) -> bool:
    """Whether an override sets a key of the optimiser without naming the network."""
    group, _, field = _parse(override)[0].partition(".")
    return group == "optimizer" and field in {f.name for f in fields(OptimizerConfig)}


def _with_network_names(overrides: Sequence[str], checkpoint: Checkpoint | None) -> list[str]:
    """Add the network's name to keys of the optimiser without one (`optimizer.lr=…`).

    Raises:
        UserError: the recipe trains several networks.
    """
    if not any(map(_is_flat, overrides)):
        return list(overrides)
    others = [o for o in overrides if not _is_flat(o)]
    config = compose_plain(others) if checkpoint is None else checkpoint.config
    networks = list(config["optimizer"])
    if len(networks) != 1:
        first = next(filter(_is_flat, overrides))
        each = " and ".join(
            first.replace("optimizer.", f"optimizer.{network}.", 1) for network in networks
        )
        raise UserError(
            f"{first} does not name the network: {config['name']} trains {', '.join(networks)}; "
            f"give {each}"
        )
    return [
        o.replace("optimizer.", f"optimizer.{networks[0]}.", 1) if _is_flat(o) else o
        for o in overrides
    ]


def compose_preprocessing(overrides: Sequence[str]) -> Preprocessing:
    """Compose `config/preprocess.yaml` with overrides.

    Raises:
        UserError: a group, key or value is unknown.
    """
    plain = compose_plain(overrides, "preprocess")
    return Preprocessing(
        from_mapping(PreprocessingData, plain["data"], "data"),
        from_mapping(PreprocessingOptions, plain["preprocess"], "preprocess"),
        plain,
    )


def compose_synthesis(overrides: Sequence[str], root: str = SYNTHESIS) -> SynthesisConfig:
    """Compose `config/synthetic_generation_cfg.yaml`, or another file there, with overrides.

    Raises:
        UserError: a group, key or value is unknown, or there is no such file.
    """
    plain = compose_plain(overrides, root)
    return replace(from_mapping(SynthesisConfig, plain), plain=plain)


def compose_plain(overrides: Sequence[str], root: str = "train") -> dict[str, Any]:
    """Compose `config/train.yaml`, or another root, with overrides into resolved plain data.

    Raises:
        UserError: a group, key or value is unknown.
    """
    _check(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            config = compose(root, overrides=list(overrides))
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # of model=null
        message = " ".join(str(error).split()).split(" Config search path:")[0]
        unknown = _UNKNOWN_KEY.search(message)
        if unknown is not None:
            raise _unknown_key(unknown[1], overrides, root) from error
        choice = _UNKNOWN_CHOICE.search(message)
        mend = nearest(choice[1], choice[2].split()) if choice else ""
        raise UserError(f"the configuration cannot be composed: {message}{mend}") from error
    sections = _SECTIONS.get(root, _OF_SYNTHESIS)
    names = [str(name) for name in cast(dict[str, Any], plain) if name not in sections]
    report([f"there is no section {name}{nearest(name, sections)}" for name in names])
    return cast(dict[str, Any], plain)


def _unknown_key(key: str, overrides: Sequence[str], root: str) -> UserError:
    """Return the error for an override of a key that is not there."""
    others = [override for override in overrides if _parse(override)[0] != key]
    known = leaves(compose_plain(others, root))
    parents = {name.rpartition(".")[0] for name in known}
    return UserError(f"there is no key {key}{nearest(key, [*known, *sorted(parents)])}")


def _compose_resumed(
    checkpoint: Checkpoint, new: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration and the overrides of a resumed run.

    A resumed run keeps the configuration in its checkpoint, except for what the new overrides
    change. To find out what that is, the saved overrides are composed twice, without and with the
    new ones. A key is changed if the results differ in it, or if a new override names it. All other
    keys keep their values, including those that were left empty and filled in when the run started.

    Raises:
        UserError: the configuration files changed since the run started, in keys that the command
            line does not set; or a new override names another model, or another source of the first
            weights, which a resumed run does not use.
    """
    model = dict(map(_parse, new)).get("model", checkpoint.config["name"])
    if model != checkpoint.config["name"]:
        raise UserError(
            f"{checkpoint.path} is of model={checkpoint.config['name']}, with which model={model} "
            "cannot go on; leave out model=, or start another run: trainer.init_from=… in place of "
            "trainer.ckpt_dir"
        )
    overrides = [o for o in checkpoint.state["overrides"] if _parse(o)[0] not in _RETIRED]
    merged = merge_overrides(overrides, new)
    saved = {k: v for k, v in leaves(checkpoint.config).items() if k not in _RETIRED}
    before = leaves(compose_plain(overrides))
    now = leaves(compose_plain(merged))
    named = [_parse(override)[0] for override in new]

    def is_asked(key: str) -> bool:
        of_new = any(key == name or key.startswith(f"{name}.") for name in named)
        return of_new or not same(before.get(key), now.get(key))

    other = [key for key in _sources(checkpoint) if key in named and saved.get(key) != now.get(key)]
    if other:  # the same value as before is no error, so that a command can be repeated
        raise UserError(
            f"{', '.join(other)} cannot be changed on resume: the weights come from the checkpoint "
            "that is resumed; start another run with trainer.init_from=… to use other ones"
        )
    given = {key: value for key, value in before.items() if value not in (None, {})}
    own = (_RESUME_KEY, *_sources(checkpoint))
    held = _defaults(checkpoint.config) | saved
    missing = object()
    changed = [
        key
        for key, value in given.items()
        if key not in own and not is_asked(key) and not same(held.get(key, missing), value)
    ]
    if changed:
        raise UserError(
            f"{', '.join(changed)} differ between {checkpoint.path} and the configuration files; "
            "give each on the command line with the value to continue with"
        )
    kept = {key: value for key, value in saved.items() if key not in before or key in now}
    return from_leaves(kept | {k: v for k, v in now.items() if is_asked(k)}), merged


def _defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of keys that the configuration of an earlier version may lack."""
    parts: dict[str, Any] = {"trainer": asdict(TrainerConfig(batch_size=0, max_steps=0))}
    kind = config["data"].get("name")
    if kind in DATA:
        parts["data"] = asdict(cast(Any, DATA[kind]).Config())
    return leaves(parts)


def _sources(checkpoint: Checkpoint) -> list[str]:
    """Return the keys that say where a run's first weights come from."""
    takes = recipe_class(checkpoint.config["model"]).takes
    return ["trainer.init_from", *(f"model.{key}" for key in takes)]


def _first_weights(plain: dict[str, Any]) -> list[Any]:
    """Return where a run's first weights come from; each may be None."""
    takes = recipe_class(plain["model"]).takes
    return [plain["trainer"]["init_from"], *(plain["model"].get(key) for key in takes)]


def merge_overrides(saved: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the saved overrides, without those that a new one replaces, and the new ones."""
    replaced = {_parse(override)[0] for override in new}
    return [o for o in saved if _parse(o)[0] not in replaced] + list(new)


def _check(overrides: Sequence[str]) -> None:
    """Refuse overrides that no configuration has, and paths that Hydra would cut at a comma.

    Raises:
        UserError: all of them, each with what to write.
    """
    old_names = yaml.safe_load((CONFIG_DIR / "old_names.yaml").read_text(encoding="utf-8"))
    problems = []
    for override in overrides:
        key, value = _parse(override)
        new = old_names.get(override, old_names.get(key))
        if key in _RETIRED:
            problems.append(f"{override} {_RETIRED[key]}")
        elif new is not None:
            problems.append(f"{override}: here it is {new} (docs/migrating.md)")
        elif isinstance(value, list) and len(_items(override)) < len(value):
            problems.append(f"{override} is cut at a comma; write {_quoted(override)}")
    report(problems)


def _parse(override: str) -> tuple[str, Any]:
    """Return what an override sets (`key`, or `group@package`) and its value."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(
            f"{printable(override)!r} is not an override (key=value): {_reason(override, error)}"
        ) from error
    key = f"{parsed.key_or_group}@{parsed.package}" if parsed.package else parsed.key_or_group
    return key, parsed.value()


def _reason(override: str, error: HydraException) -> str:
    """Say why an override cannot be read, and what to write."""
    key, equals, text = map(printable, override.partition("="))
    if not equals:
        return f"it has no value; write {key}=VALUE, without blanks"
    if text.lstrip().startswith("[") and not text.rstrip().endswith("]"):
        return f"its list has no end; a list with blanks stands in quotes: '{key}=[A, B]'"
    quoted = _quoted(override)
    mend = f"; names with such characters stand in quotes: write {quoted}" if quoted else ""
    return " ".join(str(error).split()) + mend


def _items(override: str) -> list[str]:
    """Return the items of an override's list; a comma in the name of an existing file is no end."""
    inside = override.partition("=")[2].strip()[1:-1]
    parts = inside.split(",")
    items, first = [], 0
    while first < len(parts):
        ends = range(len(parts), first + 1, -1)
        wholes = [(end, ",".join(parts[first:end]).strip()) for end in ends]
        end = next((end for end, whole in wholes if os.path.exists(whole)), first + 1)
        items.append(",".join(parts[first:end]).strip())
        first = end
    return items


def _quoted(override: str) -> str | None:
    """Return an override, quoted for Hydra and for the shell; None if quotes do not help."""
    key, _, text = override.partition("=")
    is_list = text.strip().startswith("[") and text.strip().endswith("]")
    values = [item for item in _items(override) if item] if is_list else [text]
    values = [os.path.expanduser(value.strip("\"'") or value) for value in values]
    quoted = [in_quotes(value) for value in values]
    written = f"{key}=[{','.join(quoted)}]" if is_list else f"{key}={quoted[0]}"
    try:
        understood = OverridesParser.create().parse_override(written).value()
    except HydraException:
        return None
    return shlex.quote(printable(written)) if understood in (values, values[0]) else None
