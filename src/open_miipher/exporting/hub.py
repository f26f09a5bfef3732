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


def check_upload(name: str) -> None:
    """Check that something can be uploaded, before it is made.

    Args:
        name: id on the hub, `user/name`.

    Raises:
        UserError: it is none, there is no token, or the hub cannot be reached.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import validate_repo_id

    with _hub_errors(name, f"{name} is no id on the hub: give user/name"):
        validate_repo_id(name)
        if name.count("/") != 1:  # it takes such ones, which the hub does not
            raise UserError(f"{name} is no id on the hub: give user/name")
        if get_token() is None:
            raise UserError(
                "no token for the hub: make one that may write on its page of settings, and give "
                "it in HF_TOKEN, or once to `hf auth login`"
            )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so {name} cannot be uploaded; unset it")
    if not hub_answers():
        raise UserError(_unreachable(name, "it takes no connection"))


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload an exported folder; the repository is made if there is none.

    Args:
        folder: to upload, with all that it holds.
        name: id on the hub, `user/name`.
        private: make a new repository private.

    Returns:
        The address of its page.

    Raises:
        UserError: see `check_upload`, or the token does not give the right to write there.
    """
    from huggingface_hub import HfApi

    check_upload(name)
    with _hub_errors(name, f"{name} is no id on the hub: give user/name"):
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
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"{constants.ENDPOINT} does not take this token for {name}: give one in HF_TOKEN "
                "that has the right to it"
            ) from error
        raise UserError(
            f"{constants.ENDPOINT} refused {name} (status {status}); try again later"
        ) from error
    except errors.HTTPError as error:
        raise UserError(_unreachable(name, str(error).strip().partition("\n")[0])) from error
    except OSError as error:
        raise UserError(
            f"the files of {name} cannot be read or written here: {error.strerror or error}"
        ) from error


def _unreachable(name: str, reason: str) -> str:
    from huggingface_hub import constants

    return (
        f"{constants.ENDPOINT} cannot be reached for {name} ({reason}); is there a network here, "
        "or a proxy to name in HTTPS_PROXY?"
    )
