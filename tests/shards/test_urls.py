"""What a user writes and the shards that it stands for."""

import os

import pytest

from open_miipher.base.errors import Notice, UserError
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
        ("b/*", ["b/c/d.tar.gz", "b/e.tgz", "b/f.tar"]),
        ("*/c", ["b/c/d.tar.gz"]),
        ("**/c", ["b/c/d.tar.gz"]),
        ("b/**", ["b/c/d.tar.gz", "b/e.tgz", "b/f.tar"]),
        ("**/c/**/*", ["b/c/d.tar.gz"]),
        ("**/*.tar", ["a-000.tar", "a-001.tar", "b/f.tar"]),
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
        (["no.txt"], r"key: .*no\.txt does not exist"),
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


@pytest.mark.parametrize("url", ["", "*", "**", "**/*.t*", "b*/", "?/", "**/c", "**/c/*"])
def test_links_are_followed_and_circles_end(root, tmp_path_factory, url):
    other = tmp_path_factory.mktemp("other")
    (other / "c").mkdir()
    (other / "c/linked.tar").touch()
    (root / "b/link").symlink_to(other)
    (root / "b/up").symlink_to("..")
    (root / "b/down").symlink_to("c")
    (other / "back").symlink_to(root)
    (other / "self").symlink_to("self")
    found = expand([f"{root}/{url}"], Storage(), "key")
    assert f"{root}/b/link/c/linked.tar" in found
    assert f"{root}/b/c/d.tar.gz" in found
    assert len({os.path.realpath(shard) for shard in found}) == len(found)


def test_a_link_to_nowhere_is_not_passed_over(root):
    (root / "b/gone.tar").symlink_to("nowhere")
    for url in (root / "b", root / "b/*.tar"):
        assert f"{root}/b/gone.tar" in expand([str(url)], Storage(), "key")


def test_a_folder_that_cannot_be_listed_is_named(root, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(Notice, match="b/c cannot be listed: Permission denied; what lies in it"):
        found = expand([f"{root}/b"], Storage(), "key")
    assert found
    assert not any("/c/" in url for url in found)
    with pytest.raises(UserError, match="b/c cannot be listed: Permission denied"):
        expand([f"{root}/b/c"], Storage(), "key")


@pytest.mark.parametrize("name", ["x[1]", "x?", "x*"])
def test_what_exists_is_no_pattern(root, name):
    (root / "x1").mkdir()
    (root / "x1" / "other.tar").touch()
    (root / name).mkdir()
    (root / name / "own.tar").touch()
    (root / f"{name}.tar").touch()
    (root / "x1.tar").touch()
    storage = Storage()
    assert expand([f"{root}/{name}"], storage, "key") == [f"{root}/{name}/own.tar"]
    assert expand([f"{root}/{name}.tar"], storage, "key") == [f"{root}/{name}.tar"]
    assert storage.size(f"{root}/{name}.tar") == 0


def test_a_pattern_reaches_into_folders_with_such_letters(root):
    (root / "x[1]" / "y").mkdir(parents=True)
    (root / "x[1]" / "y" / "own.tar").touch()
    assert expand([f"{root}/**/own.*"], Storage(), "key") == [f"{root}/x[1]/y/own.tar"]


def test_a_mark_at_the_beginning_of_a_text_file_is_no_part_of_it(root):
    manifest = root / "list.txt"
    manifest.write_text(f"{root}/a-000.tar\n", encoding="utf-8-sig")
    assert expand([str(manifest)], Storage(), "key") == [f"{root}/a-000.tar"]
    manifest.write_bytes(b"\xe4.tar")
    with pytest.raises(UserError, match=r"^key: .*list\.txt is no text in UTF-8"):
        expand([str(manifest)], Storage(), "key")


def test_a_shard_under_two_names_in_a_folder_comes_once(root):
    (root / "b/again.tar").symlink_to("f.tar")
    names = [f"{root}/b/{name}" for name in ("again.tar", "c/d.tar.gz", "e.tgz")]
    assert expand([f"{root}/b"], Storage(), "key") == names
    assert expand([f"{root}/b/*.tar"], Storage(), "key") == names[:1]


def test_a_shard_that_two_urls_spell_differently_stands_there_twice(root, monkeypatch):
    (root / "again.tar").symlink_to("a-000.tar")
    monkeypatch.chdir(root)
    for other in (f"{root}/b/../a-000.tar", f"{root}/again.tar", "a-000.tar", "./a-000.tar"):
        with pytest.raises(UserError, match=r"twice, also as .*/a-000\.tar through .*/a-0\*"):
            expand([f"{root}/a-0*", other], Storage(), "key")


def test_a_path_that_cannot_be_is_told(root):
    with pytest.raises(UserError, match="null"):
        expand([f"{root}/a\0.tar"], Storage(), "key")


@pytest.mark.parametrize("url", ["\udcff", "\udcff*", "\udcff{.tar", "\udcff.txt"])
def test_names_that_are_no_utf8_are_told_readably(root, url):
    (root / "\udcff.txt").write_text("gone\n")
    with pytest.raises(UserError, match=r"\\xff") as caught:
        expand([f"{root}/{url}"], Storage(), "key")
    assert str(caught.value).isprintable()
