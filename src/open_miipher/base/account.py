"""Users that the machine does not know, as in containers that run under a number."""

import os
import pwd
import tempfile
from pathlib import Path


def name_user() -> None:
    """Give a user without an entry in the list of users a name and a home, in the environment.

    Libraries (torch, wandb, matplotlib) ask for both and end without. What the environment says
    already stays.
    """
    missing = {"USER", "HOME"} - {*os.environ}
    if "LOGNAME" in os.environ:
        missing.discard("USER")
    if not missing:
        return
    user = os.getuid()
    try:
        pwd.getpwuid(user)
    except KeyError:
        own = {"USER": f"uid{user}", "HOME": str(Path(tempfile.gettempdir(), f"home-{user}"))}
        os.environ |= {name: own[name] for name in missing}
