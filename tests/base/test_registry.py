from dataclasses import dataclass, field
from typing import Literal

import pytest

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build, from_mapping
from open_miipher.cleaners import CLEANERS
from open_miipher.encoders import ENCODERS


@dataclass
class Inner:
    size: int = 3


@dataclass
class Settings:
    rate: float
    kind: Literal["a", "b"] = "a"
    sizes: list[int] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    maybe: int | None = None
    flag: bool = False


class Thing:
    Config = Settings

    def __init__(self, width, config):
        self.width, self.config = width, config


REGISTRY = {"thing": Thing}


def test_builds_with_nested_and_converted_values():
    spec = {
        "name": "thing",
        "rate": 2,
        "sizes": [1, 2],
        "pair": [1, 2],
        "inner": {"size": 7},
        "maybe": None,
    }
    thing = build(REGISTRY, spec, 5)
    assert thing.width == 5
    assert thing.config == Settings(2.0, "a", [1, 2], (1.0, 2.0), Inner(7), None, False)
    assert isinstance(thing.config.rate, float)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "thong", "rate": 1}, ["model.part.name=thong", "thing"]),
        ({"rate": 1}, ["model.part needs a name"]),
        ({"name": "thing"}, ["missing key model.part.rate"]),
        ({"name": "thing", "rate": 1, "rat": 2}, ["unknown key model.part.rat"]),
        ({"name": "thing", "rate": "x"}, ["model.part.rate='x'", "a number"]),
        ({"name": "thing", "rate": float("nan")}, ["model.part.rate=nan", "a finite number"]),
        ({"name": "thing", "rate": 1, "sizes": [2.0]}, ["sizes[0]=2.0", "number: write 2"]),
        ({"name": "thing", "rate": True}, ["model.part.rate=True", "a number"]),
        ({"name": "thing", "rate": 1, "flag": 1}, ["model.part.flag=1", "true or false"]),
        ({"name": "thing", "rate": 1, "kind": "c"}, ["model.part.kind='c'", "a, b"]),
        ({"name": "thing", "rate": 1, "sizes": [1, "x"]}, ["model.part.sizes[1]='x'"]),
        ({"name": "thing", "rate": 1, "pair": [1]}, ["model.part.pair", "2 values"]),
        ({"name": "thing", "rate": 1, "inner": {"sise": 1}}, ["model.part.inner.sise"]),
        ({"name": "thing", "rate": 1, "_target_": "os.system"}, ["_target_", "refused"]),
    ],
)
def test_names_the_bad_key(spec, words):
    with pytest.raises(UserError) as caught:
        build(REGISTRY, spec, 5, key="model.part")
    for word in words:
        assert word in str(caught.value)


def test_lists_all_problems_at_once():
    with pytest.raises(UserError, match="3 problems") as caught:
        from_mapping(Settings, {"kind": "c", "flag": 3}, "x")
    assert all(key in str(caught.value) for key in ("x.kind", "x.flag", "x.rate"))


def test_a_number_out_of_its_range_names_the_part():
    spec = {"name": "conformer", "dropout": 2.0}
    encoder = build(ENCODERS, {"name": "log_mel"})
    with pytest.raises(UserError, match=r"model\.cleaner cannot be built: dropout probability"):
        build(CLEANERS, spec, encoder, key="model.cleaner")
    spec = {"name": "conformer", "width": -4}
    with pytest.raises(UserError, match=r"model\.cleaner cannot be built: .*negative dimension"):
        build(CLEANERS, spec, encoder, key="model.cleaner")
