"""Build parts from plain data: a name in a registry, and the fields of the part's `Config`."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from open_miipher.base.errors import UserError, report
from open_miipher.base.plain import nearest

T = TypeVar("T")


class Registry(dict[str, type[T]]):
    """The classes of one kind of part, by name.

    Each class has a `Config` dataclass and takes an instance of it as its last argument.

    Args:
        kind: of the parts, as a checkpoint calls it (`vocoder`).
        parts: name to class.

    Attributes:
        of_kind: every registry that the program has imported, by kind.
    """

    of_kind: ClassVar[dict[str, "Registry[Any]"]] = {}

    def __init__(self, kind: str, parts: Mapping[str, type[T]]) -> None:
        super().__init__(parts)
        self.kind = kind
        Registry.of_kind[kind] = self


def build(registry: Mapping[str, type[T]], spec: Mapping[str, Any], *args: Any, key: str = "") -> T:
    """Build the part that `spec` names.

    Args:
        registry: name to class, as in `Registry`.
        spec: `{"name": …}` and the fields of that class's `Config`.
        *args: the arguments of the class before its config.
        key: the configuration key of the spec, for messages (`model.encoder`).

    Returns:
        `registry[spec["name"]](*args, config)`.

    Raises:
        UserError: the name is unknown or missing, or the fields do not fit.
    """
    cls, config = part_config(registry, spec, key=key)
    try:
        return cls(*args, config)  # type: ignore[call-arg]
    except (ValueError, RuntimeError) as error:  # torch raises them for numbers out of range
        if isinstance(error, RuntimeError) and "negative dimension" not in str(error):
            raise
        raise UserError(f"{key or spec['name']} cannot be built: {error}") from error


def part_config(
    registry: Mapping[str, type[T]], spec: Mapping[str, Any], key: str = ""
) -> tuple[type[T], Any]:
    """Return the class that `spec` names and its checked `Config`, without building it.

    Raises:
        UserError: see `build`.
    """
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise UserError(f"{key or 'a part'} needs a name, one of {', '.join(sorted(registry))}")
    if spec["name"] not in registry:
        raise UserError(
            f"{_join(key, 'name')}={spec['name']} is unknown; choose one of "
            f"{', '.join(sorted(registry))}"
        )
    cls = registry[spec["name"]]
    fields = {name: value for name, value in spec.items() if name != "name"}
    return cls, from_mapping(cls.Config, fields, key)  # type: ignore[attr-defined]


def from_mapping(config_class: type[T], values: Mapping[str, Any], key: str = "") -> T:
    """Fill a dataclass from plain data; checks every name and type.

    An int is converted to a float, and a list to a tuple, if the field has that type. Nothing else
    is converted.

    Args:
        config_class: a dataclass whose fields are numbers, strings, bools, lists, tuples, dicts,
            `Literal`s, optional values and further dataclasses.
        values: the fields; those with a default may be left out.
        key: the configuration key of `values`, for messages.

    Raises:
        UserError: keys are unknown, missing or of the wrong type; the message names all of them.
    """
    problems: list[str] = []
    config = _fill(config_class, values, key, problems)
    report(problems)
    return config


def _fill(config_class: type[Any], values: Any, key: str, problems: list[str]) -> Any:
    if not isinstance(values, Mapping):
        problems.append(f"{key} must be a mapping, not {values!r}")
        return None
    if "_target_" in values:
        problems.append(f"{_join(key, '_target_')} is refused: it would run code by name")
    fields = {f.name: f for f in dataclasses.fields(config_class) if f.init}
    hints = typing.get_type_hints(config_class)
    before = len(problems)
    for name in values:
        if name not in fields and name != "_target_":
            known = f"known: {', '.join(fields)}{nearest(name, fields)}"
            problems.append(f"unknown key {_join(key, name)}; {known}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if name not in values and required:
            problems.append(f"missing key {_join(key, name)}")
    filled = {
        name: _convert(hints[name], value, _join(key, name), problems)
        for name, value in values.items()
        if name in fields
    }
    return config_class(**filled) if len(problems) == before else None


def _convert(hint: Any, value: Any, key: str, problems: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        trials: list[list[str]] = []
        for option in (a for a in args if a is not type(None)):
            trial: list[str] = []
            converted = _convert(option, value, key, trial)
            if not trial:
                return converted
            trials.append(trial)
        problems.extend(trials[0])
        return None
    if dataclasses.is_dataclass(hint):
        return _fill(typing.cast(type, hint), value, key, problems)
    if origin is typing.Literal:
        if value not in args:
            problems.append(f"{key}={value!r} must be one of {', '.join(map(str, args))}")
        return value
    if origin in (list, tuple):
        return _convert_sequence(origin, args, value, key, problems)
    if origin is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{key} must be a mapping, not {value!r}")
            return None
        return {k: _convert(args[1], v, _join(key, str(k)), problems) for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong_bool = isinstance(value, bool) and hint is not bool
    if not isinstance(value, hint) or wrong_bool:
        is_whole = hint is int and isinstance(value, float) and value.is_integer()
        mend = f": write {int(value)}" if is_whole else ""
        problems.append(f"{key}={value!r} must be {_type_name(hint)}{mend}")
    elif hint is float and not math.isfinite(value):
        problems.append(f"{key}={value!r} must be a finite number")
    return value


def _convert_sequence(
    origin: type, args: tuple[Any, ...], value: Any, key: str, problems: list[str]
) -> Any:
    if not isinstance(value, list | tuple):
        problems.append(f"{key} must be a list, not {value!r}")
        return None
    fixed = origin is tuple and not (len(args) == 2 and args[1] is Ellipsis)
    if fixed and len(value) != len(args):
        problems.append(f"{key} must have {len(args)} values, not {len(value)}")
        return None
    hints = args if fixed else [args[0]] * len(value)
    items = zip(hints, value, strict=True)
    return origin(_convert(h, v, f"{key}[{i}]", problems) for i, (h, v) in enumerate(items))


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, str(hint))
