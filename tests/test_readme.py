"""What the README and docs/ tell people exists: scripts, options, overrides, keys, files, links."""

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from open_miipher import __version__
from open_miipher.config import (
    CONFIG_DIR,
    compose_plain,
    compose_preprocessing,
    compose_synthesis,
    merge_overrides,
)
from open_miipher.training import OptimizerConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
README = PAGES[ROOT / "README.md"]
# Text of the pages without code blocks, in which # begins a comment.
PROSE = {path: re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S) for path, text in PAGES.items()}
# Commands of others, which take no option of ours; a word of them may name a file of ours.
FOREIGN = (
    *("aws", "cd", "docker", "export", "find", "mkdir", "qsub", "qstat", "sbatch", "scancel"),
    *("pip", "singularity", "source", "squeue", "ssh", "tail", "wandb"),
)
FOLDERS = "benchmarks|config|container|dataset|docs|examples|jobs|src|tests"
# What a resumed or fine-tuned run would have been started with.
STARTED = ["model=miipher2_feature_cleaner", "data.train.dir_list=[x]"]


def commands() -> list[str]:
    """Every line of the pages' bash blocks, continued lines joined."""
    blocks = [
        b for text in PAGES.values() for b in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    ]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")})


def split_command(command: str) -> tuple[str, list[str]]:
    """Return the script of ours that a command runs and its arguments."""
    words = [w for w in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*|[<>]\S+", w)]
    if words[0] == "torchrun":
        if "open_miipher.commands" in words:
            module = words.index("open_miipher.commands")
            assert words[module - 1] == "-m"
            return script_of(words[module + 1]), words[module + 2 :]
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        assert set(words[1:place]) <= {
            *("--standalone", "--nproc_per_node", "--max-restarts", "1", "2", "3", "4", "8"),
        }
        return words[place], words[place + 1 :]
    if words[0] == "python":
        return words[1], words[2:]
    if words[0] == "open-miipher":
        return script_of(words[1]), words[2:]
    return words[0], words[1:]


def script_of(name: str) -> str:
    """Return the script that calls a command of ours."""
    calls = f'run("{name}")'
    scripts = [*ROOT.glob("src/*.py"), ROOT / "dataset/script/make_metadata_csv.py"]
    return next(str(s.relative_to(ROOT)) for s in scripts if calls in s.read_text())


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


def test_the_overrides_of_synthesis_compose() -> None:
    for command in (c for c in OURS if split_command(c)[0] == "src/synthesize.py"):
        _, arguments = split_command(command)
        overrides = [word for word in arguments if "=" in word]
        if overrides:
            compose_synthesis(overrides).check()
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


def python_blocks() -> list[str]:
    text = "\n".join(PAGES.values())
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_the_python_examples_name_what_exists() -> None:
    assert python_blocks()
    for block in python_blocks():
        nodes = ast.parse(block).body
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        names: dict[str, Any] = {}
        exec(compile(ast.Module(list(imports), []), "README.md", "exec"), names)
        for name, attribute in re.findall(r"\b([A-Z]\w+)\.(\w+)\(", block):
            assert callable(getattr(names[name], attribute))


@pytest.mark.integration
def test_the_python_example_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(next(b for b in python_blocks() if b in README), "README.md", "exec"), names)
    assert names["sample_rate"] == 24000
    assert names["restored"].shape == names["waveform"].shape


def test_the_job_scripts_know_the_variables_they_are_given() -> None:
    names = re.search(r"^NAMES=\((.*?)\)", (ROOT / "jobs/common.sh").read_text(), re.M | re.S)
    assert names is not None
    known = set(names.group(1).split())
    given: set[str] = set()
    for command in (c for c in commands() if "jobs/" in c):
        words = shlex.split(command)
        given |= {word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)}
        if "-v" in words:
            given |= set(words[words.index("-v") + 1].split(","))
    assert len(given) > 5
    assert given <= known


def test_the_commands_of_the_image_exist() -> None:
    entry = (ROOT / "container/entry.sh").read_text()
    known = set(re.findall(r"^  ([a-z-]+)(?: \||\))", entry, re.M))
    used = set()
    for command in commands():
        if command.startswith("singularity run"):
            used.add(command.partition(".sif ")[2].split()[0])
    assert used >= {"help", "doctor", "train", "fetch"}
    assert used <= known


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
        *keys_of(compose_synthesis([]).plain),
        *(f"optimizer.{field.name}" for field in fields(OptimizerConfig)),  # of one network
    }


def without_old_keys(path: Path) -> str:
    """Return a page's prose; of the page about migrating without the first column of its tables."""
    text = PROSE[path]
    return re.sub(r"^\| .*? \|", "|", text, flags=re.M) if path.name == "migrating.md" else text


def inline_code(text: str) -> set[str]:
    return {" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_key_that_is_named_exists(path: Path, known_keys: set[str]) -> None:
    groups = "data|model|trainer|optimizer|preprocess|dataset|tts|processing|output|logging"
    named = set()
    for code in inline_code(without_old_keys(path)):
        named |= set(re.findall(rf"(?:^|[ ~+\'])((?:{groups})\.[a-z0-9_.*]+)(?=$|[ =\'])", code))
    named = {key for key in named if not key.endswith((".sh", ".py", ".md"))}
    patterns = {re.escape(key).replace(r"\*", r"[^.]+") for key in named}
    wrong = {p for p in patterns if not any(re.fullmatch(p, key) for key in known_keys)}
    assert wrong == set()
    if path.name in ("training.md", "paper.md", "sidon.md", "data.md", "migrating.md"):
        assert len(named) >= 10


def test_every_option_that_is_named_exists() -> None:
    """Options in the text are ours, or those of the programs that a page is about."""
    scripts = [*ROOT.glob("src/open_miipher/commands/*.py"), *ROOT.glob("dataset/script/*.py")]
    scripts += [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]
    ours = set(re.findall(r'"(--[a-z0-9-]+)"', "\n".join(path.read_text() for path in scripts)))
    foreign = {
        *("--fakeroot", "--build-arg", "--mksquashfs-args", "--nv", "--compat", "--containall"),
        *("--pid", "--contain", "--cleanenv", "--export", "--signal", "--standalone"),
        *("--local-addr", "--nproc_per_node", "--no-deps", "--no-python"),
    }
    text = "\n".join(PROSE.values())
    named = {o for code in inline_code(text) for o in re.findall(r"(?:^| )(--[a-z0-9_-]+)", code)}
    assert len(named) > 20
    assert named - foreign <= ours


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path: Path) -> None:
    named = {
        match
        for code in inline_code(PROSE[path])
        for match in re.findall(rf"(?:^| )((?:{FOLDERS})/[\w./-]*)", code)
    }
    if path == ROOT / "README.md":
        named |= {
            word
            for c in commands()
            for word in c.split()
            if re.match(rf"({FOLDERS})/[\w./-]+$", word)
        }
    assert {name for name in named if not (ROOT / name).exists()} == set()


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M
    ):
        slug = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)]*)\)", PROSE[path]):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        found = target.is_relative_to(ROOT) and target.exists()
        if not found or (anchor and anchor not in anchors(target.read_text())):
            wrong.append(link)
    assert wrong == []


def test_messages_that_are_quoted_are_those_of_the_code() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    rows = re.findall(r"^\| `([^`]*…[^`]*)` \|", README, re.M)
    parts = [part.strip() for row in rows for part in row.split("…")]
    assert len(rows) >= 2
    assert [part for part in parts if part and part not in sources] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.splitlines()) <= 300
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README))
    assert linked == {f"docs/{path.name}" for path in PAGES if path.parent != ROOT}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_numbers_that_cite_a_result_stand_in_it(path: Path) -> None:
    """A paragraph that links to results, and a table after it, quote the numbers there."""
    text = ""
    for paragraph in PROSE[path].split("\n\n"):
        is_table = paragraph.startswith("|")
        results = re.findall(r"\]\(([^)]*benchmarks/results/\w+\.md)\)", paragraph)
        if not is_table:
            text = "\n".join((path.parent / result).read_text() for result in results)
        if text:
            quoted = re.findall(r"(?<![\w.-])(\d+\.\d+|\d+ of \d+)(?![\w.])", paragraph)
            assert [number for number in quoted if number not in text] == []


def test_every_dependency_has_its_notice() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    needed = project["dependencies"] + extras
    names = {re.match(r"[\w-]+", line).group() for line in needed}  # type: ignore[union-attr]
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    stubs = {name for name in names if name.startswith("types-") or name.endswith("-stubs")}
    assert {name for name in names - stubs if name not in notices} == set()


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == project["license"] == "MIT"
    assert {"title", "message", "authors"} <= set(citation)
    assert f"version {__version__} ([CITATION.cff](CITATION.cff))" in README
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
