"""The ways to build the image agree with each other and with the repository."""

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ROOT / "container"


def test_both_definitions_differ_in_their_base_only() -> None:
    texts = [
        (ROOT / "Open-Miipher-2.def").read_text(),
        (CONTAINER / "Open-Miipher-2.debootstrap.def").read_text(),
    ]
    first, second = (text[text.index("\n%setup") :] for text in texts)
    assert first == second
    for text in texts:  # a template argument without a default would break SingularityCE
        used = set(re.findall(r"\{\{ (\w+) \}\}", text))
        assert used == set(re.findall(r"^    (\w+)=", text.split("\n%setup")[0], re.MULTILINE))
        assert "CUDA" in used


def test_dockerfile_and_definition_copy_the_same() -> None:
    definition = (ROOT / "Open-Miipher-2.def").read_text()
    files = definition.split("%files")[1].split("%post")[0]
    copied = {line.split()[0] for line in files.splitlines() if line.strip()}
    dockerfile = (CONTAINER / "Dockerfile").read_text()
    lines = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
    assert {name for line in lines for name in line.split()} == copied
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_a_variant_without_a_lock_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "container").mkdir()
    script = shutil.copy(CONTAINER / "install.sh", tmp_path / "container")
    result = subprocess.run([script, "cu999"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: CUDA=cu999 has no container/requirements-cu999.lock")
    assert "container/lock.sh cu999" in result.stderr
    assert result.stderr.count("\n") == 1


def test_lock_files_hold_hashes_and_a_matched_pair() -> None:
    for lock in CONTAINER.glob("requirements*.lock"):
        text = lock.read_text()
        pins = re.findall(r"^([\w.-]+)==(\S+)[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE))
        versions = dict(pins)
        assert versions["torch"] == versions["torchaudio"]


def test_the_variants_differ_in_torch_and_its_cuda_alone() -> None:
    locks = [CONTAINER / "requirements.lock", CONTAINER / "requirements-cu126.lock"]
    ours = re.compile(r"^(?:torch|torchaudio|triton|nvidia-[\w-]+|cuda-[\w-]+|setuptools)==")
    cu130, cu126 = (
        {line for line in lock.read_text().splitlines() if re.match(r"[\w.-]+==", line)}
        for lock in locks
    )
    assert {line for line in cu130 ^ cu126 if not ours.match(line)} == set()
    assert any(line.startswith("nvidia-cuda-runtime-cu12==12.6") for line in cu126)


def test_the_fingerprint_follows_what_the_image_holds(tmp_path: Path) -> None:
    def fingerprint() -> str:
        command = [tmp_path / "container/fingerprint.sh"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for name in ("src/train.py", "container/fingerprint.sh", "container/tested.txt", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    shutil.copy(CONTAINER / "fingerprint.sh", tmp_path / "container")
    for words in (("init", "--quiet"), ("add", ".")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    before = fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}\n", before)
    for name in ("container/tested.txt", "README.md"):
        (tmp_path / name).write_text("two")
    assert fingerprint() == before
    (tmp_path / "src/train.py").write_text("two")
    assert fingerprint() != before
