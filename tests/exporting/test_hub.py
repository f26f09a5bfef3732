"""Models on a stand-in hub: uploaded, fetched, and what is said if that fails."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.commands import export
from open_miipher.exporting import Contents, fetch
from open_miipher.restoration import Restorer

NAME = "someone/restorer"


def _hub_class():
    path = Path(__file__).resolve().parents[1] / "hub.py"
    spec = importlib.util.spec_from_file_location("hub", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Hub


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator:
    from huggingface_hub import constants

    hub = _hub_class()({})
    hub.root = tmp_path / "hub"
    hub.root.mkdir()
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_checkpoint(device="cpu")


def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)


def test_what_was_uploaded_restores_the_same_on_another_machine(hub, restorer):
    page = restorer.push_to_hub(NAME, contents=Contents(licence="mit"))
    assert page == f"{hub.endpoint}/{NAME}"
    (hub.root / "restorer/evil.pkl").write_bytes(b"never fetched")
    fetched = Restorer.from_pretrained(NAME, device="cpu")
    assert np.array_equal(fetched.restore(noise(), 24000)[0], restorer.restore(noise(), 24000)[0])
    assert "evil.pkl" not in hub.served
    assert f'from_pretrained("{NAME}")' in (hub.root / "restorer/README.md").read_text()
    hub.close()  # and then again without a network
    assert "networks.json" in {path.name for path in fetch(NAME).iterdir()}


def test_a_model_that_is_not_there_is_one_sentence(hub):
    with pytest.raises(UserError, match=r"no/such is no folder here and no model at http"):
        Restorer.from_pretrained("no/such")
    with pytest.raises(UserError, match=r"\./nowhere is no folder here and no id on the hub"):
        Restorer.from_pretrained("./nowhere")
    (hub.root / "other").mkdir()
    (hub.root / "other/config.json").write_text("{}")
    hub.repositories["someone/other"] = hub.root / "other"
    with pytest.raises(UserError, match=r"someone/other on the hub is no model of this program"):
        Restorer.from_pretrained("someone/other")


def test_a_private_or_gated_model_asks_for_a_token(hub, restorer, monkeypatch):
    restorer.push_to_hub(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.private = {NAME}
    with pytest.raises(UserError, match=r"or a private one that HF_TOKEN does not open"):
        fetch(NAME)
    hub.private, hub.gated = set(), {NAME}
    with pytest.raises(UserError, match=r"is gated: accept its licence on its page .* HF_TOKEN"):
        fetch(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch(NAME).is_dir()


def test_a_disk_that_takes_nothing_is_not_blamed_on_the_network(
    hub, restorer, monkeypatch, tmp_path
):
    restorer.push_to_hub(NAME)
    (tmp_path / "full").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "full"))
    with pytest.raises(UserError, match=f"the files of {NAME} cannot be read or written here"):
        fetch(NAME)


def test_without_a_network_the_way_to_fetch_is_told(hub):
    hub.close()
    with pytest.raises(UserError, match=r"cannot be reached: run `hf download someone/restorer`"):
        Restorer.from_pretrained(NAME)


def test_what_cannot_be_uploaded_is_told_before_anything_is_made(hub, tmp_path, monkeypatch):
    words = ["--output-dir", str(tmp_path / "out"), "--push-to"]
    with pytest.raises(UserError, match=r"^restorer is no id on the hub: give user/name"):
        export.main([*words, "restorer"])
    with pytest.raises(UserError, match=r"^a//b is no id on the hub: give user/name"):
        export.main([*words, "a//b"])
    hub.close()
    with pytest.raises(UserError, match=r"cannot be reached for someone/restorer .*HTTPS_PROXY"):
        export.main([*words, NAME])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set, so someone/restorer cannot be up"):
        export.main([*words, NAME])
    assert not (tmp_path / "out").exists()


def test_without_a_token_or_the_right_one_nothing_is_uploaded(hub, restorer, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=r"does not take this token for someone/restorer"):
        restorer.push_to_hub(NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"no token for the hub: make one .* HF_TOKEN"):
        restorer.push_to_hub(NAME)
    assert hub.repositories == {}
