"""Networks built from a checkpoint, by registry and plain data alone."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import Registry
from open_miipher.checkpoint import Blueprint, Checkpoint, Content, write_checkpoint


@dataclass
class BaseConfig:
    scale: float = 2.0
    source: str = "here"


class Base(nn.Module):
    """Pretrained: its weights come from `source`."""

    Config = BaseConfig

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self.config = config

    def fingerprint(self) -> str:
        return f"base {self.config.scale}"


@dataclass
class HeadConfig:
    bias: bool = True


class Head(nn.Module):
    """Stands on a base; its own weights alone are saved."""

    Config = HeadConfig

    def __init__(self, base: Base, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.base, self.linear = base, nn.Linear(width, 1, config.bias)


class Fixed(nn.Module):
    """Has no weights."""

    Config = BaseConfig

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self.config = config


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    monkeypatch.setattr(Registry, "of_kind", dict(Registry.of_kind))
    Registry[Any]("test part", {"base": Base, "head": Head, "fixed": Fixed})


def saved(tmp_path, **changes) -> Checkpoint:
    head = Head(Base(BaseConfig()), 3, HeadConfig())
    nn.init.ones_(head.linear.weight)
    networks = {
        "base": Blueprint("test part", {"name": "base"}, [], "base 2.0"),
        "head": Blueprint("test part", {"name": "head"}, [{"network": "base"}, 3]),
        **changes,
    }
    weights = {"head": head.state_dict()}
    ema = {"head": {name: tensor / 2 for name, tensor in head.state_dict().items()}}
    write_checkpoint(tmp_path, Content({}, {"step": 1}, weights, ema, networks=networks))
    return Checkpoint.open(tmp_path)


def test_a_network_comes_with_what_it_stands_on(tmp_path):
    checkpoint = saved(tmp_path)
    assert torch.equal(checkpoint.build("head").linear.weight, torch.full((1, 3), 0.5))
    head = checkpoint.build("head", ema=False, changes={"base": {"source": "there"}})
    assert torch.equal(head.linear.weight, torch.ones(1, 3))
    assert isinstance(head.base, Base)
    assert head.base.config.source == "there"


def test_what_does_not_fit_is_named(tmp_path):
    checkpoint = saved(tmp_path)
    with pytest.raises(UserError, match="has no network tail; it has base, head"):
        checkpoint.build("tail")
    with pytest.raises(UserError, match=r"base base with other weights than model\.base"):
        checkpoint.build("head", changes={"base": {"scale": 3.0}})
    unknown = saved(tmp_path / "1", head=Blueprint("os", {"name": "system"}))
    with pytest.raises(UserError, match=r"head of .*/1/step-00000001 is of the unknown kind 'os'"):
        unknown.build("head")
    code = Blueprint(
        "test part", {"name": "head", "_target_": "os.system"}, [{"network": "base"}, 3]
    )
    with pytest.raises(UserError, match="_target_ is refused"):
        saved(tmp_path / "2", head=code).build("head")
    narrow = Blueprint("test part", {"name": "head"}, [{"network": "base"}, 2])
    with pytest.raises(UserError, match="another architecture"):
        saved(tmp_path / "3", head=narrow).build("head")


def test_a_network_without_weights_has_no_file(tmp_path):
    networks = {"fixed": Blueprint("test part", {"name": "fixed", "scale": 5.0})}
    write_checkpoint(tmp_path, Content({}, {"step": 1}, {"fixed": {}}, networks=networks))
    checkpoint = Checkpoint.open(tmp_path).verify()
    assert checkpoint.names == []
    assert not list(checkpoint.path.glob("*.safetensors"))
    assert checkpoint.build("fixed").config.scale == 5.0


def test_a_network_whose_weights_were_left_out_is_refused(tmp_path):
    networks = {"head": Blueprint("test part", {"name": "head"}, [{"network": "base"}, 3])}
    networks["base"] = Blueprint("test part", {"name": "base"}, [], "base 2.0")
    write_checkpoint(tmp_path, Content({}, {"step": 1}, {}, networks=networks))
    with pytest.raises(UserError, match=r"has no head\.safetensors"):
        Checkpoint.open(tmp_path).build("head")
