"""Tokens made by several ranks are those of one; killed, the making goes on with what is left."""

import signal

import pytest

pytestmark = pytest.mark.dist


def content(folder) -> dict[str, bytes]:
    found = folder.glob("tokens/*/*.npy")
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in found}


def makers(folder) -> set[tuple[str, ...]]:
    """Who made which part of the training data, of which there are four."""
    names = (path.name.split("-") for path in folder.glob("rank-*-made-2-*"))
    return {(name[1], name[4]) for name in names}


@pytest.mark.slow
def test_ranks_share_the_making_and_go_on_after_a_kill(
    run_script, start_script, spoken, tmp_path, wait_until
):
    one, three, broken = (tmp_path / name for name in ("one", "three", "broken"))
    for folder in (one, three, broken):
        folder.mkdir()
    run_script("tests/dist/tokens.py", one, spoken)
    run_script("tests/dist/tokens.py", three, spoken, ranks=3)
    assert content(three) == content(one)
    assert len(content(one)) == 12
    assert makers(three) == {("0", "0"), ("1", "1"), ("2", "2"), ("0", "3")}

    killed = start_script("tests/dist/tokens.py", broken, spoken, 0.5, ranks=2)
    wait_until(lambda: makers(broken) or killed.is_over)
    killed.send(signal.SIGKILL)
    killed.end()
    before = {part for _, part in makers(broken)}
    kept = {p.name: p.stat().st_ino for p in broken.glob("tokens/*/parts/*.npz")}
    assert 1 <= len(before) < 4
    assert len(kept) >= len(before)
    for path in broken.glob("rank-*"):
        path.unlink()
    run_script("tests/dist/tokens.py", broken, spoken)
    assert {part for _, part in makers(broken)} == {
        str(k) for k in range(4) if f"{k:06d}.npz" not in kept
    }
    assert content(broken) == content(one)
