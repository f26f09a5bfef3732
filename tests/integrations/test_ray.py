"""Ray Data: what actors do with a batch, and a real local Ray whose actor is killed."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_codec import make_codec

from open_miipher.audio.formats import FileFormat
from open_miipher.codec.audio_tokenizer import AudioTokenizer
from open_miipher.integrations.ray import RestoreBatch, SynthesizeBatch, TokenizeBatch
from open_miipher.restoration import Restorer

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "dataset/demo/speech/test").glob("*.flac"))
BAD = [b"this is no audio", b"", None]


class Tone:
    """Says everything in a second."""

    sample_rate = 16000

    def __init__(self, *_):
        pass

    def speak(self, texts, seeds):
        return [0.1 * np.sin(np.arange(16000)).astype(np.float32) for _ in texts]


def column(*values: object) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def assert_same(one: bytes, other: bytes) -> None:
    """See that two files have the same samples, but for a step where other batches round so."""
    (samples, rate), (wanted, wanted_rate) = (
        soundfile.read(io.BytesIO(data), dtype="int16") for data in (one, other)
    )
    assert (rate, samples.shape) == (wanted_rate, wanted.shape)
    steps = np.abs(samples.astype(np.int32) - wanted)
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.01


@pytest.fixture(scope="module")
def by_inference(tmp_path_factory, run_script) -> dict[str, bytes]:
    """What `src/inference.py` makes of the files, by name."""
    out = tmp_path_factory.mktemp("restored")
    folder = FILES[0].parent
    run_script("src/inference.py", "--input-audio-dir", folder, "--output-dir", out)
    return {path.stem: path.read_bytes() for path in out.glob("*.wav")}


@pytest.fixture(scope="module")
def restore() -> RestoreBatch:
    return RestoreBatch(device="cpu")


@pytest.mark.integration
def test_files_become_what_inference_makes_of_them_and_bad_ones_an_error(restore, by_inference):
    files = [path.read_bytes() for path in FILES]
    names = [path.stem for path in FILES]
    batch = {"bytes": column(*files, *BAD), "name": np.array([*names, "x", "y", "z"])}
    out = restore(batch)
    assert list(out["name"]) == [*names, "x", "y", "z"]
    assert set(by_inference) == set(names)
    for name, data in zip(names, out["bytes"], strict=False):
        assert data == by_inference[name]
    assert set(out["error"][: len(files)]) == {""}
    assert set(out["sample_rate"][: len(files)]) == {24000}
    for row in range(len(files), len(out["error"])):
        assert out["error"][row]
        assert (out["bytes"][row], out["sample_rate"][row]) == (b"", 0)


@pytest.mark.integration
def test_waveforms_become_what_the_restorer_makes_of_them(restore):
    waveforms = [soundfile.read(path, dtype="float32") for path in FILES[:2]]
    sounds = [wave for wave, _ in waveforms]
    batch = {
        "waveform": column(*sounds, np.zeros(0), np.array([np.nan, 1.0]), sounds[0]),
        "sample_rate": np.array([*(rate for _, rate in waveforms), 24000, 24000, 3]),
    }
    out = restore(batch)
    restorer = Restorer.from_checkpoint(device="cpu")
    for row, (wave, rate) in enumerate(waveforms):
        alone = restorer.restore(wave, rate)[0]
        np.testing.assert_allclose(out["waveform"][row], alone, atol=1e-6)
        assert out["error"][row] == ""
    assert [bool(error) for error in out["error"]] == [False, False, True, True, True]
    assert [len(wave) for wave in out["waveform"][2:]] == [0, 0, 0]


def test_a_batch_without_audio_is_an_error_a_row(restore):
    out = restore({"text": np.array(["a", "b"])})
    assert list(out["error"]) == ["there is no column bytes, nor waveform and sample_rate"] * 2


def test_tokens_are_the_tokenizers_own_in_time_order(tmp_path):
    make_codec(tmp_path)
    tokenize = TokenizeBatch(str(tmp_path), device="cpu")
    files = [path.read_bytes() for path in FILES[:2]]
    out = tokenize({"bytes": column(files[0], BAD[0], files[1])})
    codec = AudioTokenizer("cpu", str(tmp_path))
    import torch

    for row, path in ((0, FILES[0]), (2, FILES[1])):
        wave, rate = soundfile.read(path, dtype="float32")
        if rate == codec.sample_rate:
            wanted = codec.encode(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0]
            same = out["tokens"][row] == wanted.flatten().numpy()
            assert same.mean() > 0.99  # two codes may be as near
        seconds = len(wave) / rate
        assert len(out["tokens"][row]) == pytest.approx(150 * seconds, abs=2)
    assert list(out["codebooks"]) == [2, 2, 2]
    assert [bool(error) for error in out["error"]] == [False, True, False]


@pytest.fixture(scope="module")
def tokenize(tmp_path_factory) -> TokenizeBatch:
    folder = tmp_path_factory.mktemp("codec")
    make_codec(folder)
    return TokenizeBatch(str(folder), device="cpu")


def test_whole_numbers_are_scaled_by_their_type_or_are_an_error(tokenize):
    wave = (0.3 * np.sin(np.arange(4800) / 7)).astype(np.float32)
    steps = np.round(wave * 32768).astype(np.int16)
    waves = [steps / np.float32(32768), steps, steps.astype(np.int32) << 16]
    bad = [steps.astype(np.int64), steps.astype(np.uint8), steps > 0, steps.astype(complex)]
    all_waves = column(*waves, *bad, list(map(float, wave)))
    out = tokenize({"waveform": all_waves, "sample_rate": np.full(8, 24000)})
    for same in out["tokens"][1:3]:
        assert np.array_equal(same, out["tokens"][0])
    assert len(out["tokens"][0]) == len(out["tokens"][7]) > 0
    kinds = ["int64", "uint8", "bool", "complex128"]
    assert list(out["error"][3:7]) == [
        f"row {row}: samples of {kind}; float, int16 or int32 is needed"
        for row, kind in enumerate(kinds, start=3)
    ]
    assert [bool(error) for error in out["error"]] == [False] * 3 + [True] * 4 + [False]


def test_a_row_that_failed_in_an_earlier_step_keeps_its_reason(tokenize, restore, monkeypatch):
    monkeypatch.setattr("open_miipher.integrations.ray.TTSProcessor", Tone)
    given = column("it was damaged", "", None, "")
    speak = SynthesizeBatch(device="cpu")
    spoken = speak({"text": column("one", "two", "three", "!!!"), "error": given})
    wanted = ["it was damaged", "", "", "the text '!!!' is mute"]
    assert list(spoken["error"]) == wanted
    assert [len(wave) for wave in spoken["waveform"]] == [0, 16000, 16000, 0]
    spoken["waveform"][0] = spoken["waveform"][1]  # whatever a step has left there
    tokens = tokenize(spoken)
    assert list(tokens["error"]) == wanted
    assert [bool(len(row)) for row in tokens["tokens"]] == [False, True, True, False]
    restored = restore({"bytes": column(BAD[0]), "error": column("not fetched")})
    assert (restored["error"][0], restored["bytes"][0]) == ("not fetched", b"")


def test_texts_that_the_script_does_not_speak_are_errors_with_the_same_words(monkeypatch):
    monkeypatch.setattr("open_miipher.integrations.ray.TTSProcessor", Tone)
    speak = SynthesizeBatch(device="cpu", max_characters=20)
    out = speak({"text": column("cut \ud83d", "…!", "x" * 21, 3, "fine\n and well")})
    assert list(out["error"]) == [
        r"the text 'cut \ud83d' holds half a character (a lone surrogate)",
        *("the text '…!' is mute", "the text has 21 characters, more than max_characters=20"),
        *("the text is none, but int: '3'", ""),
    ]


def test_a_batch_of_no_columns_has_no_rows(tokenize, restore, monkeypatch):
    monkeypatch.setattr("open_miipher.integrations.ray.TTSProcessor", Tone)
    for step in (tokenize, restore, SynthesizeBatch(device="cpu")):
        assert {len(values) for values in step({}).values()} == {0}


def test_texts_are_spoken_and_tried_again_with_other_seeds(monkeypatch):
    seen = []

    class Speaks:
        sample_rate = 16000

        def __init__(self, *_):
            pass

        def speak(self, texts, seeds):
            seen.extend(zip(texts, seeds, strict=True))
            if "bad" in texts:
                raise IndexError("no such letter")
            first = [text for text, _ in seen].count(texts[0]) == 1
            level = 0.0 if texts[0] == "once" and first else 0.1
            return [level * np.sin(np.arange(16000)).astype(np.float32) for _ in texts]

    monkeypatch.setattr("open_miipher.integrations.ray.TTSProcessor", Speaks)
    speak = SynthesizeBatch(max_retries=2, device="cpu")
    out = speak({"text": column("once", "well said", "bad", "", None), "n": np.arange(5)})
    assert list(out["error"]) == [
        *("", "", "IndexError: no such letter"),
        *("the text is empty", "the text is none, but NoneType: 'None'"),
    ]
    assert list(out["sample_rate"]) == [16000, 16000, 0, 0, 0]
    assert [len(wave) for wave in out["waveform"]] == [16000, 16000, 0, 0, 0]
    assert list(out["n"]) == list(range(5))
    tries = [seed for text, seed in seen if text == "bad"]
    assert len(set(tries)) == 3
    assert list(speak({"words": column("a")})["error"]) == ["there is no column text"]


class KilledOnce(RestoreBatch):
    """Dies at the first batch of all, as an actor on a machine that is lost."""

    def __init__(self, mark: str) -> None:
        super().__init__(device="cpu", file_format=FileFormat("wav"))
        self._mark = Path(mark)

    def __call__(self, batch):
        with (self._mark.parent / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    yield ray
    ray.shutdown()


@pytest.mark.integration
@pytest.mark.slow
def test_an_actor_that_is_killed_costs_nothing_and_results_are_inferences(
    ray, tmp_path, by_inference
):
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"name": path.stem, "bytes": path.read_bytes()} for path in FILES]
    rows.insert(1, {"name": "bad", "bytes": BAD[0]})
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    out = dataset.map_batches(
        KilledOnce,
        fn_constructor_kwargs={"mark": str(tmp_path / "mark")},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    ).take_all()
    found = {row["name"]: row for row in out}
    assert len(out) == len(rows) == len(found)
    assert {name for name, row in found.items() if row["error"]} == {"bad"}
    for name, data in by_inference.items():
        assert_same(found[name]["bytes"], data)
    pids = (tmp_path / "pids").read_text().split()
    assert len(set(pids)) >= 3  # two actors, and the one in the place of the dead


def example(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples/ray_restore.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=600, check=False
    )


@pytest.mark.integration
@pytest.mark.slow
def test_the_example_restores_parquet_into_parquet(tmp_path, by_inference):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("ray")
    files = [path.read_bytes() for path in FILES]
    table = pyarrow.table(
        {"name": [*(path.stem for path in FILES), "bad"], "bytes": [*files, BAD[0]]}
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    given = ["--input", tmp_path / "in.parquet", "--output", tmp_path / "out", "--format", "wav"]
    done = example(*given)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{len(FILES)} rows restored, 1 failed" in done.stdout
    rows = {row["name"]: row for row in parquet.read_table(tmp_path / "out").to_pylist()}
    for name, data in by_inference.items():
        assert_same(rows[name]["bytes"], data)
    again = example(*given)
    assert (again.returncode, again.stderr.count("is not empty")) == (2, 1)


@pytest.mark.integration
@pytest.mark.slow
def test_the_example_restores_shards_into_shards(tmp_path, by_inference):
    pytest.importorskip("ray")
    from open_miipher.shards import Sample, ShardWriter, read_samples

    for shard in range(2):
        with ShardWriter(tmp_path / f"{shard}.tar") as writer:
            for path in FILES[shard::2]:
                sound = io.BytesIO()
                soundfile.write(sound, *soundfile.read(path, dtype="int16"), format="WAV")
                writer.add(Sample(path.stem, {"wav": sound.getvalue(), "txt": b"words"}))
    done = example(
        *("--input", tmp_path / "*.tar", "--output", tmp_path / "out", "--column", "wav")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for shard in (tmp_path / "out").glob("*.tar"):
        with shard.open("rb") as file:
            found |= {sample.key: sample.members for sample in read_samples(file, str(shard))}
    assert set(found) == set(by_inference)
    for name, members in found.items():
        assert members["txt"] == b"words"
        assert_same(members["wav"], by_inference[name])
