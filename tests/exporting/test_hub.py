"""Models on a stand-in hub: uploaded, fetched, and what is said if that fails."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.exporting import Contents, Said, fetch
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
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_checkpoint(device="cpu")


def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)


def test_what_was_uploaded_restores_the_same_on_another_machine(hub, restorer):
    page = restorer.push_to_hub(NAME, contents=Contents(said=Said(NAME, licence="mit")))
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


def test_without_a_network_the_way_to_fetch_is_told(hub):
    hub.close()
    with pytest.raises(UserError, match=r"cannot be reached: run `hf download someone/restorer`"):
        Restorer.from_pretrained(NAME)


def test_without_a_token_or_the_right_one_nothing_is_uploaded(hub, restorer, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=r"does not take this token for someone/restorer"):
        restorer.push_to_hub(NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"no token for the hub: make one .* HF_TOKEN"):
        restorer.push_to_hub(NAME)
    assert hub.repositories == {}
