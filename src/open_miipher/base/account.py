"""Users that the machine does not know, as in containers that run under a number."""

import os
import tempfile
from pathlib import Path

try:
    import pwd
except ImportError:  # Windows, where every user has a name
    pwd = None  # type: ignore[assignment]


def user_number() -> int:
    """Return the number of this process's user; 0 on Windows, where users have none."""
    return os.getuid() if hasattr(os, "getuid") else 0


def name_user() -> None:
    """Give a user without an entry in the list of users a name and a home, in the environment.

    Libraries (torch, wandb, matplotlib) ask for both and end without. What the environment says
    already stays.
    """
    missing = {"USER", "HOME"} - {*os.environ}
    if "LOGNAME" in os.environ:
        missing.discard("USER")
    if pwd is None or not missing:
        return
    user = user_number()
    try:
        pwd.getpwuid(user)
    except KeyError:
        own = {"USER": f"uid{user}", "HOME": str(Path(tempfile.gettempdir(), f"home-{user}"))}
        os.environ |= {name: own[name] for name in missing}
