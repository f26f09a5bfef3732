"""Names inside shards: keys of samples and names of members."""

import pytest

from open_miipher.shards import assign_keys, member_name


def test_keys_have_no_dots_and_are_their_own() -> None:
    paths = ["a.b/x.v1.wav", "a.b/x_v1.flac", "a.b/x_v1.mp3", "__y__.wav", "z@0.5+1.wav"]
    assert list(assign_keys(paths)) == [
        *("a.b/x_v1", "a.b/x_v1_2", "a.b/x_v1_3", "_y__", "z@0_5+1"),
    ]


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("flac", [], "wav"),
        ("noisy.flac", ["wav"], "noisy.wav"),
        ("flac", ["wav"], "flac.wav"),
        ("flac", ["wav", "flac.wav"], "flac.flac.wav"),
        ("a.b.mp3", ["a.b.wav"], "a.b.mp3.wav"),
    ],
)
def test_restored_members_keep_their_stems(name: str, taken: list[str], expected: str) -> None:
    assert member_name(name, "wav", taken) == expected
