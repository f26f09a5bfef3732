"""Sets of texts: every kind of file, and what is wrong with one in a sentence."""

import json
from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.corpus.synthesising.config import DatasetConfig
from open_miipher.corpus.synthesising.texts import Texts, read_indices
from open_miipher.synthesis.judging import BadText


def read(path: object, **options) -> dict[str, object]:
    return Texts(DatasetConfig(name=str(path), **options), 15.0).texts


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_files_of_every_kind_give_the_same_texts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = ["one, two", 'say "three"', "vier fünf"]
    rows = [{"text": text, "speaker": 1} for text in texts]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = 'text,speaker\n"one, two",1\n"say ""three""",1\nvier fünf,1\n'
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    files = [
        written(tmp_path / "a.jsonl", lines),
        written(tmp_path / "a.json", lines),
        written(tmp_path / "list.json", json.dumps(rows, indent=1)),
        written(tmp_path / "a.csv", table),
        written(tmp_path / "a.txt", "\n".join(texts)),
        tmp_path / "a.parquet",
    ]
    for file in files:
        assert read(file) == dict(zip("012", texts, strict=True)), file
    found = {Texts(DatasetConfig(name=str(file)), 15.0).fingerprint for file in files}
    assert len(found) == 1


def test_a_folder_that_datasets_saved_is_read_by_its_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_dict({"sentence": ["a", "b"], "n": [5, 6]})
    test = datasets.Dataset.from_dict({"sentence": ["c"], "n": [7]})
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "set"))
    columns = {"text_column": "sentence", "index_column": "n"}
    assert read(tmp_path / "set", **columns) == {"5": "a", "6": "b"}
    assert read(tmp_path / "set", split="test", **columns) == {"7": "c"}


def test_a_set_of_the_hub_that_cannot_be_had_is_told(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("open_miipher.encoders.pretrained.hub_answers", lambda: False)
    with pytest.raises(UserError, match=r"nobody/nothing is no file here, and its split train"):
        read("nobody/nothing")


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("a.jsonl", '{"txt": "x", "n": 1}', {}, "has no column text, but txt, n; say by dataset."),
        ("a.csv", "text\nx\n", {"index_column": "n"}, "no column n.*dataset.index_column"),
        ("a.jsonl", '{"text": "x"}\n{"text"', {}, "a.jsonl, line 2, column 8: Expecting ':'"),
        ("a.json", '[{"text": "x"}, 3]', {}, "entry 1, counted from 0, is no JSON object"),
        ("a.json", '[{"text": "x"},\n {"text"', {}, r"a.json: Expecting ':' delimiter: line 2 col"),
        ("a.jsonl", "[1]", {}, "line 1 is no JSON object"),
        ("a.csv", "n,text\n1,x\n2,y\n1,z\n", {"index_column": "n"}, "index 1 stands there twice"),
        (
            *("a.csv", "n,text\n7,x\n00000007,y\n", {"index_column": "n"}),
            "indices 7 and 00000007 are one name of a file, 00000007; write",
        ),
        *(
            ("a.jsonl", f'{{"n": 1, "text": "x"}}\n{{"n": {index}, "text": "y"}}', options, told)
            for options in ({"index_column": "n"},)
            for index, told in (
                ("null", "in row 1, counted from 0, dataset.index_column=n holds None; indices"),
                ("true", "row 1, .* holds True"),
                ("2.0", "row 1, .* holds 2.0"),
            )
        ),
        ("a.csv", "n,text\n../x,y\n", {"index_column": "n"}, r"the index '\.\./x' is none"),
        ("a.txt", "", {}, "holds no texts"),
        ("a.xml", "<a/>", {}, "give a file that ends in .jsonl"),
        ("a.parquet", "text", {}, "is no parquet file"),
    ],
)
def test_a_broken_set_is_told_in_a_sentence(tmp_path, name, content, options, sentence):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match=sentence):
        read(written(tmp_path / name, content), **options)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"a.jsonl cannot be read: No such file"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "the text is none, but NoneType"),
        (3, "the text is none, but int: '3'"),
        ("  \n", "the text is empty"),
        ("…!", "the text '…!' is mute"),
        ("a \ud83d", r"the text 'a \ud83d' holds half a character (a lone surrogate)"),
        ("x" * 51, "51 characters, more than dataset.max_characters=50"),
    ],
)
def test_a_bad_text_is_told_and_the_others_go_on(tmp_path, text, problem):
    rows = [{"text": "fine\n and well "}, {"text": text}]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    texts = Texts(DatasetConfig(name=str(path), max_characters=50), 15.0)
    good, bad = (texts.look(item, "", None).details for item in texts.ids())
    assert good == "fine and well"
    assert isinstance(bad, BadText)
    assert problem in bad.problem


@pytest.mark.parametrize("content", ['{"fingerpr', "[]", '{"dataset": "a"}', '{"fingerprint": 3}'])
def test_what_tells_of_which_set_indices_are_may_be_damaged(tmp_path, content):
    left = written(tmp_path / "left.txt", "0\n")
    written(tmp_path / "left.txt.dataset.json", content)
    path = written(tmp_path / "a.txt", "one\n")
    texts = Texts(DatasetConfig(name=str(path), remaining_indices_file=str(left)), 15.0)
    with pytest.raises(UserError, match=r"left.txt.dataset.json .*; remove it if you are sure"):
        texts.wanted()


def test_files_of_indices_are_lists_or_lines(tmp_path):
    assert read_indices(written(tmp_path / "a.json", '[3, "x7", 12]')) == ["3", "x7", "12"]
    assert read_indices(written(tmp_path / "a.txt", "3\nx7\n\n12\n")) == ["3", "x7", "12"]
    for content in ('{"3": 1}', "[1.5]", "[", "[[1]]"):
        with pytest.raises(UserError):
            read_indices(written(tmp_path / "b.json", content))
