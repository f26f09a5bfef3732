import json

import pytest

from open_miipher.base.errors import UserError
from open_miipher.evaluation.votes import read_votes, sum_votes, votes_table


def save(path, votes, listener="Ann", report="r1"):
    content = {"format": "open-miipher votes 1", "report": report, "listener": listener}
    path.write_text(json.dumps({**content, "votes": votes}))
    return path


def vote(file, better, time="2026-11-29T04:00:00.000Z"):
    return {"file": file, "first": "a", "second": "b", "better": better, "time": time}


def test_the_share_has_the_exact_binomial_interval(tmp_path):
    given = [vote(f"{x}.wav", "a" if x < 8 else "b") for x in range(10)] + [vote("x.wav", None)]
    (found,) = sum_votes(read_votes([save(tmp_path / "ann.json", given)]))
    assert (found.for_first, found.for_second, found.undecided) == (8, 2, 1)
    assert found.share == 0.8
    # Clopper and Pearson's interval of 8 of 10, from tables.
    assert (found.low, found.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert "0.44 … 0.97" in votes_table([found])


def test_votes_of_several_listeners_count_and_a_repeated_one_counts_once(tmp_path):
    first = save(tmp_path / "1.json", [vote("x.wav", "a")])
    later = save(tmp_path / "2.json", [vote("x.wav", "b", "2026-11-30T04:00:00.000Z")])
    other = save(tmp_path / "3.json", [vote("x.wav", "b")], "Bob")
    (found,) = sum_votes(read_votes([later, first, other, first]))
    assert (found.for_first, found.for_second, found.listeners) == (0, 2, 2)


def test_a_pair_without_a_preference_has_no_share(tmp_path):
    (found,) = sum_votes(read_votes([save(tmp_path / "1.json", [vote("x.wav", None)])]))
    assert found.share is None
    assert (found.low, found.high) == (0, 1)
    assert sum_votes([]) == []


def test_what_holds_no_votes_is_named(tmp_path):
    path = tmp_path / "v.json"
    for text, reason in (
        ("{", "holds no votes"),
        ("[]", 'its "format" is not'),
        ('{"format": "open-miipher votes 1"}', "it needs report, listener and votes"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=reason):
            read_votes([path])
    for wrong in ({"file": "x"}, {**vote("x.wav", "c")}, "a"):
        with pytest.raises(UserError, match="vote 2 is not whole"):
            read_votes([save(path, [vote("x.wav", "a"), wrong])])
    with pytest.raises(UserError, match="cannot be read"):
        read_votes([tmp_path / "none.json"])
    other = save(tmp_path / "other.json", [], report="r2")
    with pytest.raises(UserError, match="different reports"):
        read_votes([save(path, []), other])
