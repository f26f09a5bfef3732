"""What a user writes and the shards that it stands for."""

import pytest

from open_miipher.errors import UserError
from open_miipher.shards import Storage, expand


@pytest.fixture
def root(tmp_path):
    for name in ("a-000.tar", "a-001.tar", "b/c/d.tar.gz", "b/e.tgz", "b/notes.md", "b/f.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("a-000.tar", ["a-000.tar"]),
        ("b", ["b/c/d.tar.gz", "b/e.tgz", "b/f.tar"]),
        ("b/", ["b/c/d.tar.gz", "b/e.tgz", "b/f.tar"]),
        ("a-*.tar", ["a-000.tar", "a-001.tar"]),
        ("a-00[1-9].tar", ["a-001.tar"]),
        ("b/*", ["b/e.tgz", "b/f.tar"]),
        ("**/*.tgz", ["b/e.tgz"]),
        ("a-{000..001}.tar", ["a-000.tar", "a-001.tar"]),
        ("{b/f,a-001}.tar", ["b/f.tar", "a-001.tar"]),
    ],
)
def test_a_url_stands_for_shards(root, url, names):
    assert expand([f"{root}/{url}"], Storage(), "key") == [f"{root}/{name}" for name in names]


def test_a_text_file_stands_for_its_lines(root):
    manifest = root / "list.txt"
    manifest.write_text(f"# shards\n\n {root}/a-{{000..001}}.tar \n{root}/b/*.tgz\n")
    assert expand([str(manifest)], Storage(), "key") == [
        f"{root}/{name}" for name in ("a-000.tar", "a-001.tar", "b/e.tgz")
    ]


def test_a_shard_by_its_name_need_not_be_there_yet(root):
    assert expand([f"{root}/no.tar"], Storage(), "key") == [f"{root}/no.tar"]


@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        (["nothing-*.tar"], r"key: .*/nothing-\*\.tar holds no shards"),
        (["missing"], "key: .*/missing holds no shards"),
        (["a-{000.tar"], "braces of .* do not match"),
        (["a-000.tar", "a-*.tar"], r"a-000\.tar stands there twice"),
        (["list.txt"], r"list\.txt, line 2: .*/gone holds no shards"),
        (["no.txt"], r"key: .*no\.txt cannot be read"),
    ],
)
def test_what_stands_for_nothing_is_named(root, urls, reason):
    (root / "list.txt").write_text(f"{root}/a-000.tar\n{root}/gone\n")
    with pytest.raises(UserError, match=reason):
        expand([f"{root}/{url}" for url in urls], Storage(), "key")


def test_all_problems_are_told_at_once(root):
    with pytest.raises(UserError, match=r"2 problems(.|\n)*x\*(.|\n)*y\*"):
        expand([f"{root}/x*", f"{root}/y*"], Storage(), "key")


def test_s3_only_refuses_paths(root):
    with pytest.raises(UserError, match=r"a-000\.tar is no s3:// URI, as is_s3=true asks for"):
        expand([f"{root}/a-000.tar"], Storage(), "key", s3_only=True)
