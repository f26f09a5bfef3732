import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from small_evaluation import COLUMNS, NAMES, NEW, OLD, RATE, make_evaluation

from open_miipher.base.errors import UserError
from open_miipher.evaluation.report import write_report
from open_miipher.evaluation.report_plan import ReportPlan, plan_report, read_trust
from open_miipher.evaluation.results import Evaluation, Sounds


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return make_evaluation(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def folder(evaluation, tmp_path_factory):
    report = tmp_path_factory.mktemp("results") / "report"
    write_report(report, evaluation, planned(evaluation, {}, num_files=5))
    return report


def data(folder: Path, key: str):
    text = (folder / f"data/{key}.js").read_text("ascii")  # so no byte needs to be known
    head = f'report.receive("{key}",'
    assert text.startswith(head)
    return json.loads(text.removeprefix(head).removesuffix(");\n"))


def planned(evaluation, trusted, num_files=60, seconds=60.0) -> ReportPlan:
    return plan_report(evaluation, trusted, num_files, seconds)


def numbers(count: int) -> Evaluation:
    """An evaluation without sounds, the first file the best."""
    rows = [
        {"file": f"{x}.wav", "system": "a", "estoi": 1 - x / count, "problems": ""}
        for x in range(count)
    ]
    sounds = {f"{x}.wav": Sounds({"a": Path(f"/none/{x}.wav")}) for x in range(count)}
    return Evaluation(["a"], COLUMNS, rows, sounds, {})


def test_the_worst_file_is_first_by_the_first_column_that_judges(evaluation):
    plan = planned(evaluation, {})
    assert plan.sorted_by == "estoi"  # a level is neither good nor bad
    assert plan.files == NAMES
    assert planned(numbers(5), {}).files == [f"{x}.wav" for x in (4, 3, 2, 1, 0)]


def test_what_can_be_trusted_least_is_first_whatever_was_measured(evaluation):
    trusted = {
        evaluation.sounds[NAMES[5]].restored[NEW].resolve(): (0.1, "speech at 1.0-1.5 s is gone"),
        evaluation.sounds[NAMES[5]].restored[OLD].resolve(): (0.9, ""),
        evaluation.sounds[NAMES[2]].restored[OLD].resolve(): (0.5, ""),
    }
    plan = planned(evaluation, trusted)
    assert plan.sorted_by == "trust"
    assert plan.files == [NAMES[5], NAMES[2], NAMES[0], NAMES[1], NAMES[3], NAMES[4]]
    assert plan.trust[:, 0].tolist() == [0.9, 0.1]
    assert plan.reasons[1, 0] == "speech at 1.0-1.5 s is gone"


def test_trust_is_read_from_the_manifest_beside_the_files(tmp_path):
    rows = [
        {"output": "a/x.wav", "trust": 0.25, "trust_reason": "the pitch fell", "kept_input": True},
        {"output": "y.wav", "trust": 1.0, "trust_reason": None},
        {"output": None, "error": "it is no audio"},
        {"output": "z.wav"},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_trust(tmp_path) == {
        (tmp_path / "a/x.wav").resolve(): (0.25, "the pitch fell; the input was kept"),
        (tmp_path / "y.wav").resolve(): (1.0, ""),
    }
    assert read_trust(tmp_path / "elsewhere") == {}


def test_the_worst_the_best_and_some_between_can_be_heard():
    plan = planned(numbers(1000), {}, num_files=60)
    assert len(set(plan.shown)) == 60
    assert plan.shown[:20] == list(range(20))
    assert plan.shown[-10:] == list(range(990, 1000))
    between = np.diff([x for x in plan.shown if 20 <= x < 990])
    assert between.min() >= 31
    assert between.max() <= 33
    for count in (0, 1, 2, 7):
        assert len(set(planned(numbers(1000), {}, count).shown)) == count
    assert planned(numbers(3), {}, num_files=60).shown == [0, 1, 2]


def test_what_is_measured_stands_in_the_pages_data(folder, evaluation):
    summary = data(folder, "summary")
    assert summary["series"] == ["input", OLD, NEW]
    assert [of and of[0] for of in (x[1] for x in summary["means"])] == pytest.approx(
        [0.2, 0.55, 0.65]
    )
    assert summary["means"][0][2] is None  # the inputs have no distance
    differences = {(x["of"], x["less"]): x["means"] for x in summary["differences"]}
    assert set(differences) == {(1, 0), (2, 0), (2, 1)}
    # 0.1 in every file, so that the interval has no width.
    assert differences[2, 1][1] == pytest.approx([0.1, 0.1, 0.1, 6])
    assert differences[1, 0][1][0] == pytest.approx(0.35)
    estoi = summary["columns"][1]
    assert estoi["better"] == 1
    assert [sum(counts) for counts in estoi["counts"]] == [6, 6, 6]
    rows = data(folder, "rows-0")
    assert rows[1]["name"] == NAMES[1]
    assert rows[2]["name"] == "line\\x0abreak \u2028.wav"
    assert rows[4]["name"] == "not utf-8 \\xff.wav"
    assert rows[3]["values"] == [[-20.0, 0.2, None], [-23.0, 0.6, 6.0], [-23.0, 0.7, 6.0]]
    assert rows[3]["problems"] == [f"{OLD}: it clips", f"{NEW}: it clips"]
    assert data(folder, "problems") == [3]
    assert data(folder, "column-estoi")[2] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_rows_lie_in_pages(tmp_path):
    evaluation = numbers(1201)
    write_report(tmp_path / "report", evaluation, planned(evaluation, {}, num_files=0))
    pages = [data(tmp_path / "report", f"rows-{x}") for x in range(3)]
    assert [len(page) for page in pages] == [500, 500, 201]
    assert pages[2][200]["name"] == "0.wav"
    assert not (tmp_path / "report/data/rows-3.js").exists()


def test_sounds_and_pictures_are_copied_under_names_that_tell_nothing(folder, evaluation):
    place = data(folder, "summary")["shown"][1]
    content = data(folder, f"file-{place}")
    assert [x["kind"] for x in content["sounds"]] == ["input", "system", "system", "reference"]
    original, _ = soundfile.read(evaluation.sounds[NAMES[place]].restored[NEW])
    copied, rate = soundfile.read(folder / f"sounds/{content['sounds'][2]['token']}.flac")
    assert rate == RATE
    np.testing.assert_array_equal(copied, original)
    level = content["sounds"][2]["level"]
    assert level == pytest.approx(float(np.sqrt(np.mean(original**2))), rel=1e-4)
    told = " ".join(path.name for path in folder.rglob("*"))
    assert not any(word in told for word in ("old", "new", "best", "input", "clean"))
    with Image.open(folder / f"pictures/{content['sounds'][0]['token']}.webp") as picture:
        assert picture.size == (250, 192)  # 2 s by 8 ms
    changes = sorted(path.name for path in (folder / "pictures").glob("*-change.webp"))
    assert len(changes) == 2 * 5


def test_long_sounds_are_cut_and_many_channels_mixed(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((3 * 8000, 6)), 8000)
    row = {"file": "long.wav", "system": "a", "problems": ""}
    evaluation = Evaluation(["a"], COLUMNS, [row], {"long.wav": Sounds({"a": path})}, {})
    write_report(tmp_path / "report", evaluation, planned(evaluation, {}, seconds=np.inf))
    assert data(tmp_path / "report", "file-0")["sounds"][0]["is_whole"]
    write_report(tmp_path / "report", evaluation, planned(evaluation, {}, seconds=1.5))
    (sound,) = data(tmp_path / "report", "file-0")["sounds"]
    info = soundfile.info(tmp_path / f"report/sounds/{sound['token']}.flac")
    assert (info.frames, info.channels) == (12000, 1)
    assert not sound["is_whole"]


def test_a_rate_that_flac_cannot_hold_is_heard_at_another(tmp_path):
    soundfile.write(tmp_path / "odd.wav", 0.1 * np.sin(np.arange(70001)), 70001)
    row = {"file": "odd.wav", "system": "a", "problems": ""}
    sounds = {"odd.wav": Sounds({"a": tmp_path / "odd.wav"})}
    evaluation = Evaluation(["a"], COLUMNS, [row], sounds, {})
    write_report(tmp_path / "report", evaluation, planned(evaluation, {}))
    content = data(tmp_path / "report", "file-0")
    (copy,) = (tmp_path / "report/sounds").iterdir()
    assert (soundfile.info(copy).samplerate, soundfile.info(copy).duration) == (48000, 1)
    assert content["highest_hz"] == 70001 / 2
    assert content["sounds"][0]["seconds"] == 1


def test_channels_in_opposite_phase_are_no_silence_in_the_picture(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "wide.wav", np.stack([noise, -noise], axis=1), 8000)
    row = {"file": "wide.wav", "system": "a", "problems": ""}
    sounds = {"wide.wav": Sounds({"a": tmp_path / "wide.wav"})}
    evaluation = Evaluation(["a"], COLUMNS, [row], sounds, {})
    write_report(tmp_path / "report", evaluation, planned(evaluation, {}))
    (picture,) = (tmp_path / "report/pictures").iterdir()
    with Image.open(picture) as image:
        assert np.asarray(image).mean() > 100


def test_a_sound_that_cannot_be_read_is_told_and_the_others_are_there(tmp_path):
    evaluation = make_evaluation(tmp_path / "sounds", seconds=0.3)
    evaluation.sounds[NAMES[1]].restored[OLD].write_bytes(b"no audio")
    evaluation.sounds[NAMES[2]].restored[OLD].unlink()
    write_report(tmp_path / "report", evaluation, planned(evaluation, {}))
    for place in (1, 2):
        content = data(tmp_path / "report", f"file-{place}")
        assert [x["label"] for x in content["sounds"]] == ["input", NEW, "clean reference"]
        assert len(content["missing"]) == 1


def test_silence_and_one_sample_have_a_page(tmp_path):
    path = tmp_path / "short.wav"
    for samples in (np.zeros(1), np.zeros(8000)):
        soundfile.write(path, samples, 8000)
        row = {"file": "short.wav", "system": "a", "problems": "it is silent"}
        sounds = Sounds({"a": path}, None, path)
        evaluation = Evaluation(["a"], COLUMNS, [row], {"short.wav": sounds}, {})
        write_report(tmp_path / "report", evaluation, planned(evaluation, {}))
        assert len(data(tmp_path / "report", "file-0")["sounds"]) == 2


def test_the_size_that_is_said_is_about_that_of_the_folder(tmp_path):
    evaluation = make_evaluation(tmp_path / "sounds", seconds=8.0)
    plan = planned(evaluation, {}, num_files=2)
    assert str(plan).startswith("the report lets 2 of 6 files be heard (about ")
    write_report(tmp_path / "report", evaluation, plan)
    taken = sum(path.stat().st_size for path in (tmp_path / "report").rglob("*.*"))
    assert taken / 2 < plan.num_bytes < taken * 2


def test_only_a_report_is_replaced_and_only_by_a_whole_one(tmp_path, evaluation):
    plan = planned(evaluation, {}, num_files=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(UserError, match="holds something else than a report: move it away"):
        write_report(tmp_path / "mine", evaluation, plan)
    assert (tmp_path / "mine/thesis.txt").exists()
    write_report(tmp_path / "report", evaluation, plan, title="first")
    (tmp_path / ".report.new.tmp").mkdir()  # of a run that was killed
    impossible = Evaluation(evaluation.systems, COLUMNS, evaluation.rows, {}, {})
    with pytest.raises(KeyError):
        write_report(tmp_path / "report", impossible, plan, title="second")
    assert data(tmp_path / "report", "summary")["title"] == "first"
    write_report(tmp_path / "report", evaluation, plan, title="third")
    assert data(tmp_path / "report", "summary")["title"] == "third"
    assert len(list((tmp_path / "report/sounds").iterdir())) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "report"}


@pytest.mark.integration
def test_the_command_writes_the_report_of_what_it_measured(run_script, tmp_path):
    make_evaluation(tmp_path, seconds=0.5)
    for name in NAMES[3:]:  # three are enough
        for kind in ("old", "new", "input", "clean"):
            (tmp_path / kind / name).unlink()
    row = {"output": NAMES[1], "trust": 0.3, "trust_reason": "the pitch fell"}
    (tmp_path / "new/manifest.jsonl").write_text(json.dumps(row) + "\n")
    words = [
        *["--restored-dir", f"first={tmp_path / 'old'}", f"second={tmp_path / 'new'}"],
        *["--reference-dir", tmp_path / "clean", "--input-dir", tmp_path / "input"],
        *["--output-dir", tmp_path / "out", "--measures", "level", "log_spectral_distance"],
        *["--num-workers", 1, "--report", "--report-files", 1],
    ]
    (tmp_path / "out/report").mkdir(parents=True)
    (tmp_path / "out/report/mine.txt").touch()
    refused = run_script("src/evaluate.py", *words, check=False)
    assert refused.returncode == 2
    assert "holds something else than a report" in refused.stderr
    assert not (tmp_path / "out/per_file.csv").exists()  # nothing was measured in vain
    (tmp_path / "out/report/mine.txt").unlink()
    (tmp_path / "out/report").rmdir()
    made = run_script("src/evaluate.py", *words)
    assert "the report lets 1 of 3 files be heard" in made.stderr
    summary = data(tmp_path / "out/report", "summary")
    assert summary["series"] == ["input", "first", "second"]
    assert summary["sorted_by"] == "trust"
    first = data(tmp_path / "out/report", "rows-0")[0]
    assert (first["name"], first["reasons"]) == (NAMES[1], ["", "the pitch fell"])
    means = json.loads((tmp_path / "out/summary.json").read_text())["systems"]["second"]
    column = [x["name"] for x in summary["columns"]].index("log_spectral_distance")
    wanted = means["log_spectral_distance"]
    assert summary["means"][2][column][:1] == pytest.approx([wanted["mean"]])
    run_script("src/evaluate.py", *words)  # again: the same, so that votes still belong to it
    assert data(tmp_path / "out/report", "summary")["id"] == summary["id"]


@pytest.mark.integration
def test_wrong_use_of_the_report_is_one_sentence(run_script, tmp_path):
    folders = ["--restored-dir", tmp_path, "--output-dir", tmp_path / "out"]
    for words, message in (
        ([], "it takes --restored-dir and --output-dir, or --votes"),
        (["--restored-dir", tmp_path], "it takes --restored-dir and --output-dir, or --votes"),
        ([*folders, "--report-files", -1], "--report-files must not be negative"),
        ([*folders, "--report-seconds", 0], "--report-seconds more than 0"),
        (["--votes", tmp_path / "none.json"], "none.json cannot be read: No such file"),
    ):
        process = run_script("src/evaluate.py", *words, check=False)
        assert process.returncode == 2
        assert message in process.stderr
        assert "Traceback" not in process.stderr
