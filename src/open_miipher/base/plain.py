"""Functions on the plain data of configurations: nested dicts, lists, numbers, text."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def leaves(plain: Any, key: str = "") -> dict[str, Any]:
    """Return the values by their dotted keys; an empty dict counts as a value."""
    if not isinstance(plain, Mapping) or not plain:
        return {key: plain}
    nested = (leaves(value, f"{key}.{name}" if key else str(name)) for name, value in plain.items())
    return {name: value for named in nested for name, value in named.items()}


def from_leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts from values by their dotted keys; the inverse of `leaves`."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = plain
        for name in parents:
            child = node.get(name)
            node[name] = node = child if isinstance(child, dict) else {}
        if value != {} or last not in node:
            node[last] = value
    return plain


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the leaves of `over` added or replaced."""
    laid = {
        key: overlaid(base[key], value)
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        else value
        for key, value in over.items()
    }
    return {**base, **laid}


def differing_keys(a: Any, b: Any, key: str = "") -> list[str]:
    """Return the dotted keys of the leaves in which `a` and `b` differ; they begin with `key`."""
    missing = object()
    ours, theirs = leaves(a, key), leaves(b, key)
    return [
        name
        for name in dict.fromkeys([*ours, *theirs])
        if not same(ours.get(name, missing), theirs.get(name, missing))
    ]


def same(a: Any, b: Any) -> bool:
    """Whether two leaves are equal; a list equals a tuple of the same values."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return list(a) == list(b)
    return bool(a == b)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for a dotted key that is unknown; empty if none is like it."""
    names = list(known)
    last = name.rpartition(".")[2]
    elsewhere = [other for other in names if other.rpartition(".")[2] == last]
    near = get_close_matches(name, elsewhere, 1, 0) or get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def in_quotes(text: str) -> str:
    """Put text in quotes for an override, in which a backslash counts before a quote alone."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), text) + '"'


def shell_override(key: str, text: str) -> str:
    """Return an override as it is typed in a shell; plain text stands without quotes."""
    plain = re.fullmatch(r"[\w./-]*/[\w./-]*", text, re.ASCII)
    return shlex.quote(f"{key}={text if plain else in_quotes(text)}")


def as_json(plain: Any, indent: int | None = None) -> bytes:
    """Return plain data as JSON in UTF-8; the bytes of names that are not UTF-8 are escaped."""
    text = json.dumps(plain, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")
