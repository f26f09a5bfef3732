from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_miipher.base.plain import differing_keys, from_leaves, leaves, overlaid

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(["a", "b", "c", "aa"])
VALUES = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
PLAIN = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=3),
    lambda inner: st.dictionaries(NAMES, VALUES | inner, max_size=3),
    max_leaves=8,
)


@relaxed
@given(PLAIN.filter(bool))
def test_leaves_come_together_again(plain):
    assert from_leaves(leaves(plain)) == plain


def test_leaves_have_dotted_names_and_empty_dicts_are_leaves():
    plain = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": None}
    assert leaves(plain) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}], "f": None}


def test_what_lies_below_an_empty_dict_fills_it():
    assert from_leaves({"a": {}, "a.b": 1}) == from_leaves({"a.b": 1, "a": {}}) == {"a": {"b": 1}}
    assert from_leaves({"a": 5, "a.b": 1}) == {"a": {"b": 1}}


@relaxed
@given(PLAIN, PLAIN)
def test_what_is_laid_over_wins(base, over):
    laid = overlaid(base, over)
    assert set(laid) == {*base, *over}
    assert overlaid(laid, over) == laid
    assert differing_keys(overlaid(base, {}), base) == []
