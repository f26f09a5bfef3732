"""A user id without a name, as in containers."""

import getpass
import os
import pwd

from open_miipher.base.account import name_user


def test_a_user_without_a_name_gets_one(monkeypatch):
    """torch's getpass ended a training with a traceback."""

    def unknown(user):
        raise KeyError(user)

    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    name_user()
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert os.path.isabs(os.path.expanduser("~/x"))
    for name in ("USER", "HOME"):
        os.environ.pop(name)
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.setenv("HOME", "/home/anna")
    name_user()
    assert (getpass.getuser(), os.environ.get("USER")) == ("anna", None)


def test_what_the_machine_knows_stays(monkeypatch):
    for name in ("USER", "LOGNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: None)
    name_user()
    assert not {"USER", "HOME"} & {*os.environ}
