"""Exported folders on the hub: fetched, and uploaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from open_miipher.base.errors import UserError
from open_miipher.encoders.pretrained import hub_answers

_READ = ["*.safetensors", "*.json", "config.yaml"]  # and no pickles


def fetch(source: str, revision: str | None = None) -> Path:
    """Return the folder of a model; it is fetched if it is none here.

    Without a network, what was fetched before is taken from the cache.

    Args:
        source: a folder, or an id on the hub such as `user/name`.
        revision: branch, tag or commit on the hub; None: the newest.

    Raises:
        UserError: there is no such folder or model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    folder = Path(source).expanduser()
    if folder.exists():
        return folder
    with _hub_errors(source, f"{source} is no folder here and no id on the hub (user/name)"):
        is_offline = not hub_answers()
        found = snapshot_download(
            source, revision=revision, allow_patterns=_READ, local_files_only=is_offline
        )
    if not (Path(found) / "networks.json").is_file():
        raise UserError(
            f"{source} on the hub is no model of this program: it has no networks.json, which "
            "src/export.py writes"
        )
    return Path(found)


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload an exported folder; the repository is made if there is none.

    Args:
        folder: to upload, with all that it holds.
        name: id on the hub, `user/name`.
        private: make a new repository private.

    Returns:
        The address of its page.

    Raises:
        UserError: no token, no right to write there, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    with _hub_errors(name, f"{name} is no id on the hub: give user/name"):
        if get_token() is None:
            raise UserError(
                "no token for the hub: make one that may write on its page of settings, and give "
                "it in HF_TOKEN, or once to `hf auth login`"
            )
        api = HfApi()
        page = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload the model")
    return str(page)


@contextmanager
def _hub_errors(name: str, no_id: str) -> Iterator[None]:
    """Turn what the hub complains of into one sentence."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(no_id) from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: accept its licence on its page at {constants.ENDPOINT}, and give "
            "your token in HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is no folder here and no model at {constants.ENDPOINT} (or a private one that "
            "HF_TOKEN does not open)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no such revision at {constants.ENDPOINT}") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is no folder here and was not fetched before, and {constants.ENDPOINT} cannot "
            f"be reached: run `hf download {name}` where there is a network, with HF_HOME on a "
            "disk that this machine sees"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"HF_HUB_OFFLINE is set, so {name} cannot be reached; unset it") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"{constants.ENDPOINT} does not take this token for {name}: give one in HF_TOKEN "
                "that may write there"
            ) from error
        raise UserError(
            f"{constants.ENDPOINT} refused {name} (status {status}); try again later"
        ) from error
    except (errors.HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{constants.ENDPOINT} cannot be reached for {name} ({reason}); is there a network "
            "here, or a proxy to name in HTTPS_PROXY?"
        ) from error
