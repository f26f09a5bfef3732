"""What the README tells people to type exists: scripts, options, overrides, keys, links."""

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from open_miipher.config import (
    CONFIG_DIR,
    compose_plain,
    compose_preprocessing,
    merge_overrides,
)

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [README, *(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))]
# Commands of others, which take no option of ours; a word of them may name a file of ours.
FOREIGN = (
    *("cd", "docker", "export", "mkdir", "qsub", "qstat", "sbatch", "scancel", "singularity"),
    *("source", "squeue", "ssh", "tail", "wandb"),
)
FOLDERS = "benchmarks|config|container|dataset|docs|jobs|src|tests"
# What a resumed or fine-tuned run would have been started with.
STARTED = ["model=miipher2_feature_cleaner", "data.train.dir_list=[x]"]


def commands() -> list[str]:
    """Every line of the documents' bash blocks, continued lines joined."""
    blocks = [
        b for text in DOCUMENTS for b in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    ]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")})


def split_command(command: str) -> tuple[str, list[str]]:
    """Return the script of ours that a command runs and its arguments."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] == "torchrun":
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        assert set(words[1:place]) <= {
            *("--standalone", "--nproc_per_node", "--max-restarts", "1", "2", "3", "4", "8"),
        }
        return words[place], words[place + 1 :]
    if words[0] == "python":
        return words[1], words[2:]
    return words[0], words[1:]


OURS = [c for c in commands() if split_command(c)[0] not in FOREIGN]
TRAININGS = [c for c in OURS if split_command(c)[0] == "src/train.py"]
SCRIPTS = [c for c in OURS if split_command(c)[0].endswith(".py") and c not in TRAININGS]


def test_there_are_commands_of_every_kind() -> None:
    scripts = {split_command(command)[0] for command in OURS}
    assert scripts >= {
        *("make", "src/train.py", "src/inference.py", "benchmarks/gpu.sh"),
        "dataset/script/make_metadata_csv.py",
        "dataset/script/make_rir_bank.py",
        "dataset/script/preview_degradations.py",
    }


@pytest.mark.parametrize("command", OURS)
def test_the_program_exists(command: str) -> None:
    script, arguments = split_command(command)
    if script == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert arguments[0] in targets
    else:
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("command", TRAININGS)
def test_the_overrides_compose(command: str) -> None:
    _, arguments = split_command(command)
    overrides = [word for word in arguments if "=" in word]
    if len(overrides) < len(arguments):
        assert [word for word in arguments if "=" not in word] in (["-h"], ["--cfg", "job"])
    if any(word.startswith("trainer.ckpt_dir=") for word in overrides):
        overrides = merge_overrides(STARTED, overrides)
    if overrides:
        composed = compose_plain(overrides)
        assert composed["name"] in {path.stem for path in (CONFIG_DIR / "model").glob("*.yaml")}


def test_the_overrides_of_preprocessing_compose() -> None:
    for command in (c for c in OURS if split_command(c)[0] == "src/preprocess.py"):
        _, arguments = split_command(command)
        overrides = [word for word in arguments if "=" in word]
        if overrides:
            compose_preprocessing(overrides).check()
        assert [word for word in arguments if "=" not in word] in ([], ["-h"], ["--cfg", "job"])


@pytest.mark.parametrize("command", SCRIPTS)
def test_the_options_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, arguments = split_command(command)

    class Parsed(Exception):
        """The command line was understood; nothing else is to be done."""

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def stop(self: argparse.ArgumentParser, *args: Any, parse: Any = parse) -> None:
            parse(self, *args)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def test_the_python_examples_name_what_exists() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", "\n".join(DOCUMENTS), re.M | re.S)
    assert blocks
    for block in blocks:
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
        names: dict[str, Any] = {}
        exec(compile(ast.Module(imports, []), "README.md", "exec"), names)
        for name, attribute in re.findall(r"\b([A-Z]\w+)\.(\w+)\(", block):
            assert callable(getattr(names[name], attribute))


def keys_of(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a composed configuration, groups included."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from keys_of(value, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def known_keys() -> set[str]:
    models = [path.stem for path in (CONFIG_DIR / "model").glob("*.yaml")]
    compositions = [[f"model={model}"] for model in models]
    compositions.append(["model=miipher2_feature_cleaner", "encoder@model.encoder=w2v_bert_2"])
    compositions.append(["model=sidon_feature_predictor", "data=preprocessed_48k"])
    preprocessing = compose_plain(["data=webdataset_preprocess_48k"], "preprocess")
    return {
        *(key for overrides in compositions for key in keys_of(compose_plain(overrides))),
        *keys_of(preprocessing),
    }


def test_every_key_that_is_named_exists(known_keys: set[str]) -> None:
    text = re.sub(r"^\| .*? \|", "|", README.partition("## Old key")[2], flags=re.M)
    text = README.partition("## Old key")[0] + text  # the old keys, in the first column, left out
    named = set(re.findall(r"`~?((?:data|model|trainer|optimizer|preprocess)\.[a-z0-9_.]+)`", text))
    assert len(named) > 40
    assert {key for key in named if key not in known_keys} == set()


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(rf"(?<![\w/])((?:{FOLDERS})/[\w./-]*)[` )]", README))
    named |= {
        word for c in commands() for word in c.split() if re.match(rf"({FOLDERS})/[\w./-]+$", word)
    }
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_links_inside_the_readme_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", README)) <= anchors


def test_every_dependency_has_its_notice() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w-]+", line).group() for line in needed}  # type: ignore[union-attr]
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    stubs = {name for name in names if name.startswith("types-") or name.endswith("-stubs")}
    assert {name for name in names - stubs if name not in notices} == set()


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "MIT"
    assert {"title", "message", "authors"} <= set(citation)
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
