"""Objects in an S3 store on loopback: found, read, and told in a sentence when they cannot be."""

import multiprocessing
import pickle
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import s3

from open_miipher.base.errors import UserError
from open_miipher.shards import S3Config, Storage, StorageError, expand, read_index, storage

CONTENT = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def store():
    with s3.running_store() as running:
        for key in ("a-000.tar", "a-001.tar", "deep/er/b.tar", "deep/c.tar.gz", "deep/notes.md"):
            running.client.put_object(Bucket="bucket", Key=key, Body=CONTENT)
        yield running


@pytest.fixture(scope="module")
def reached(store):
    """Return one storage for many tests: to make its connections takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.KEYS.items():
            patch.setenv(name, value)
        own = reaching(store.endpoint_url)
        own.size("s3://bucket/a-000.tar")  # now it has the keys
        return own


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path):
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def reaching(endpoint_url: str, retries: int = 0, timeout_seconds: float = 2.0, **more) -> Storage:
    return Storage(S3Config(endpoint_url, None, retries, timeout_seconds, **more))


def test_objects_are_read_in_part_and_in_a_stream(reached):
    url = "s3://bucket/a-000.tar"
    assert reached.size(url) == len(CONTENT)
    assert reached.read(url, 300, 900) == CONTENT[300:900]
    assert reached.read(url, len(CONTENT) - 5, len(CONTENT) + 100) == CONTENT[-5:]
    assert reached.read(url, len(CONTENT) + 5, len(CONTENT) + 100) == b""
    assert reached.read(url, 7, 7) == b""
    with reached.open(url) as file:
        file.seek(1000)
        assert file.read(10) == CONTENT[1000:1010]
        assert file.read() == CONTENT[1010:]


def test_a_stamp_tells_a_change(store, reached):
    url = "s3://bucket/changing.bin"
    stamps = []
    for body in (b"one", b"one", b"two"):
        store.client.put_object(Bucket="bucket", Key="changing.bin", Body=body)
        stamps.append(reached.stamp(url))
    assert stamps[0] == stamps[1] != stamps[2]


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("s3://bucket/a-{000..001}.tar", ["a-000.tar", "a-001.tar"]),
        ("s3://bucket/a-*.tar", ["a-000.tar", "a-001.tar"]),
        ("s3://bucket/deep", ["deep/c.tar.gz", "deep/er/b.tar"]),
        ("s3://bucket/deep/", ["deep/c.tar.gz", "deep/er/b.tar"]),
        ("s3://bucket/**/*.tar", ["a-000.tar", "a-001.tar", "deep/er/b.tar"]),
        ("s3://bucket/d*", ["deep/c.tar.gz", "deep/er/b.tar"]),
        ("s3://bucket/*/e?", ["deep/er/b.tar"]),
        ("s3://bucket/**", ["a-000.tar", "a-001.tar", "deep/c.tar.gz", "deep/er/b.tar"]),
        ("s3://bucket", ["a-000.tar", "a-001.tar", "deep/c.tar.gz", "deep/er/b.tar"]),
    ],
)
def test_urls_stand_for_objects(reached, url, names):
    found = expand([url], reached, "key", s3_only=True)
    assert sorted(found) == [f"s3://bucket/{name}" for name in names]


def test_a_text_file_lists_objects_and_a_dead_line_is_named(reached, tmp_path):
    manifest = tmp_path / "list.txt"
    manifest.write_text("s3://bucket/a-000.tar\ns3://bucket/deep/\n")
    assert len(expand([str(manifest)], reached, "key", s3_only=True)) == 3
    manifest.write_text("s3://bucket/a-000.tar\n\ns3://bucket/gone/*.tar\n")
    with pytest.raises(UserError, match=r"list\.txt, line 3: s3://bucket/gone/\*\.tar holds no"):
        expand([str(manifest)], reached, "key", s3_only=True)
    manifest.write_text("s3://bucket/a-000.tar\ns3://bucket/gone.tar\n")
    urls = expand([str(manifest)], reached, "key", s3_only=True)
    with pytest.raises(UserError, match=r"s3://bucket/gone\.tar at http.* does not exist"):
        read_index(reached, urls[1])


def test_a_text_file_in_the_store_lists_shards(store, reached):
    lines = "\ufeff# shards\ns3://bucket/a-000.tar\ns3://bucket/deep/\n"
    store.client.put_object(Bucket="bucket", Key="list.txt", Body=lines.encode())
    assert len(expand(["s3://bucket/list.txt"], reached, "key", s3_only=True)) == 3
    store.client.put_object(Bucket="bucket", Key="list.txt", Body=b"\n/data/x.tar\n")
    with pytest.raises(UserError, match=r"^s3://bucket/list\.txt, line 2: /data/x\.tar is no s3:"):
        expand(["s3://bucket/list.txt"], reached, "key", s3_only=True)
    with pytest.raises(UserError, match=r"^key: s3://bucket/no\.txt at http.* does not exist$"):
        expand(["s3://bucket/no.txt"], reached, "key")


ACTIONS = {
    "size": lambda s, bucket: s.size(f"s3://{bucket}/a-000.tar"),
    "read": lambda s, bucket: s.read(f"s3://{bucket}/a-000.tar", 0, 9),
    "open": lambda s, bucket: s.open(f"s3://{bucket}/a-000.tar").read(9),
    "find": lambda s, bucket: s.find(f"s3://{bucket}/deep", (".tar",)),
    "find all": lambda s, bucket: s.find(f"s3://{bucket}", (".tar",)),
    "glob": lambda s, bucket: s.glob(f"s3://{bucket}/*.tar", (".tar",)),
}


@pytest.mark.parametrize("action", ["size", "read", "open"])
def test_an_unknown_bucket_is_named(store, reached, action):
    with pytest.raises(UserError, match=rf"s3://none/.* at {store.endpoint_url} does not exist"):
        ACTIONS[action](reached, "none")


@pytest.mark.parametrize("url", ["s3://none", "s3://none/deep", "s3://none/*.tar"])
def test_an_unknown_bucket_holds_no_shards(reached, url):
    with pytest.raises(UserError, match=r"s3://none.*(does not exist|holds no shards)"):
        expand([url], reached, "key")


def test_wrong_credentials_are_refused_at_once(store, monkeypatch):
    refused, sleeps = reaching(store.endpoint_url, retries=8), []
    monkeypatch.setattr(storage.time, "sleep", sleeps.append)
    store.post("/moto-api/reset-auth", "0")  # from now on the keys are checked
    try:
        for action in ACTIONS.values():
            with pytest.raises(StorageError, match=r"refuses: .*check the credentials"):
                action(refused, "bucket")
        assert sleeps == []
    finally:
        store.post("/moto-api/reset-auth", "1000000")


def test_missing_credentials_and_profiles_are_told(store, monkeypatch):
    for name in s3.KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match="refuses: Unable to locate credentials; check the cre"):
        reaching(store.endpoint_url, retries=8).size("s3://bucket/a-000.tar")
    unknown = Storage(S3Config(store.endpoint_url, profile="nobody"))
    with pytest.raises(StorageError, match=r"refuses: .*nobody.* could not be found; check the"):
        unknown.size("s3://bucket/a-000.tar")


def test_a_profile_gives_the_credentials(store, monkeypatch, tmp_path):
    for name in s3.KEYS:
        monkeypatch.delenv(name)
    lines = ["[mine]", "aws_access_key_id = a", "aws_secret_access_key = b"]
    (tmp_path / "credentials").write_text("\n".join(lines))
    own = Storage(S3Config(store.endpoint_url, profile="mine"))
    assert own.size("s3://bucket/a-000.tar") == len(CONTENT)


def test_an_endpoint_that_refuses_ends_after_the_retries(monkeypatch):
    waits = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and not listening: refused
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        dead = reaching(endpoint, retries=7)
        for action in ACTIONS.values():
            with pytest.raises(StorageError, match=f"at {endpoint} cannot be reached, also after "):
                action(dead, "bucket")
    assert waits == [0.5, 1, 2, 4, 8, 16, 20] * len(ACTIONS)


def test_an_endpoint_that_never_answers_ends_in_bounded_time():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(StorageError, match="cannot be reached, also after 1 retries"):
            reaching(endpoint, retries=1, timeout_seconds=0.3).size("s3://bucket/a-000.tar")
        assert time.monotonic() - started < 15  # what is imported meanwhile included


def test_a_dropped_line_is_ridden_over_by_all(store):
    line = s3.Line(store)
    reached = reaching(line.endpoint_url, retries=8)
    expected = [action(reached, "bucket") for action in ACTIONS.values()]
    line.cut()
    mended = threading.Timer(0.4, line.mend)
    mended.start()
    with ThreadPoolExecutor(len(ACTIONS)) as executor:
        answers = executor.map(lambda action: action(reached, "bucket"), ACTIONS.values())
        assert list(answers) == expected
    assert mended.finished.is_set()
    line.cut()


def test_a_line_that_drops_in_the_middle_of_an_answer_is_ridden_over(store, wait_until):
    """What comes of the rest is neither short nor wrong."""
    line = s3.Line(store)
    line.stalls = True
    reached, read = reaching(line.endpoint_url, retries=8), []
    reader = threading.Thread(
        target=lambda: read.append(reached.read("s3://bucket/a-000.tar", 5, 500_000))
    )
    reader.start()
    assert line.begun.wait(20)
    line.cut()
    assert line.read == []
    line.mend()
    reader.join(30)
    assert read == [CONTENT[5:500_000]]
    wait_until(lambda: line.read, 20)  # it is noted after the answer has gone
    assert line.read == [("/bucket/a-000.tar", "bytes=5-499999")]
    line.cut()


def test_a_store_that_is_busy_is_asked_again(store, monkeypatch):
    from botocore.exceptions import ClientError

    reached, url = reaching(store.endpoint_url, retries=3), "s3://bucket/a-000.tar"
    filesystem, answers = reached._s3_filesystem, [503, 500]
    real = type(filesystem)._call_s3

    async def busy(self, *arguments, **options):
        if answers:
            code = str(answers.pop())
            from s3fs.errors import translate_boto_error

            raise translate_boto_error(ClientError({"Error": {"Code": code}}, "GetObject"))
        return await real(self, *arguments, **options)

    monkeypatch.setattr(type(filesystem), "_call_s3", busy)
    assert reached.read(url, 0, 9) == CONTENT[:9]
    assert answers == []


def _read_size(reached: Storage, answers) -> None:
    answers.put(reached.size("s3://bucket/a-000.tar"))


def test_it_works_in_a_forked_process_and_when_it_is_copied(reached):
    assert reached.size("s3://bucket/a-000.tar") == len(CONTENT)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_size, args=(reached, answers))
    child.start()
    assert answers.get(timeout=20) == len(CONTENT)
    child.join(20)
    assert child.exitcode == 0
    copied = pickle.loads(pickle.dumps(reached))
    assert copied == reached
    assert copied.size("s3://bucket/a-000.tar") == len(CONTENT)


def test_local_paths_are_told_at_once(tmp_path):
    local = Storage()
    with pytest.raises(UserError, match=r"no\.tar does not exist"):
        local.size(str(tmp_path / "no.tar"))
    with pytest.raises(StorageError, match="Is a directory"):
        local.read(str(tmp_path), 0, 9)
