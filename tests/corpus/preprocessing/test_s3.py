"""Raw collections in object storage, read by workers."""

import pytest

from open_miipher.base.errors import UserError
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.run import run

from .conftest import files_of, make_tar

moto_server = pytest.importorskip("moto.server")


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.dist
@pytest.mark.slow
def test_shards_from_a_bucket_are_those_from_a_disk_but_for_their_names(
    endpoint, tmp_path, preprocess, tasks, alone
):
    from s3fs import S3FileSystem

    storage = S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
    storage.mkdir("raw")
    for number in range(3):
        path = make_tar(tmp_path / f"raw/{number}.tar", 4, seed=number)
        storage.put(str(path), f"raw/speech/{number}.tar")
    given = [
        'data.train.urls=["s3://raw/speech/{0..2}.tar"]', f"data.s3.endpoint_url={endpoint}",
        "data.s3.retries=0", "preprocess.num_writers=2",
    ]  # fmt: skip
    with Pool(2) as pool:  # its workers have the environment's credentials
        folder, task = next(iter(tasks(*given, pool=pool).items()))
        summary = run(task, folder, alone)
    assert (summary.num_done, summary.exit_code) == (3, 0)
    local, _ = preprocess(f"data.train.urls=[{tmp_path / 'raw'}]", "preprocess.job_id=local")
    assert [len(data) for data in files_of(folder).values()] == [
        len(data) for data in files_of(local).values()
    ]
    assert preprocess(*given)[1].num_done == 0
    storage.rm("raw/speech/1.tar")
    with pytest.raises(UserError, match=r"s3://raw/speech/1\.tar at http.* does not exist"):
        preprocess(*given)


@pytest.mark.dist
def test_a_bucket_that_cannot_be_reached_is_one_sentence(monkeypatch, preprocess):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(UserError, match=r"s3://raw/x\.tar at .* cannot be reached"):
        preprocess(
            "data.train.urls=[s3://raw/x.tar]", "data.s3.endpoint_url=http://127.0.0.1:9",
            "data.s3.retries=0",
        )  # fmt: skip
