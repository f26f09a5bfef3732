"""The doctor's screen: every fault it knows, made to happen, named with its mend."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from open_miipher.base.gpu_support import Driver
from open_miipher.commands import doctor

ROOT = Path(__file__).resolve().parents[1]


def only(findings: Iterator[doctor.Finding], topic: str) -> doctor.Finding:
    (finding,) = [finding for finding in findings if finding.topic == topic]
    return finding


def test_this_machine_passes_on_one_screen(run_script) -> None:
    result = run_script("src/doctor.py")
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    topics = {line[8:21].strip() for line in lines}
    wanted = {
        "Python",
        "torch",
        "driver",
        "gloo",
        "codecs",
        "caches",
        "output/",
        "wandb",
        "machine",
    }
    assert topics >= wanted


def test_without_torch_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ())  # transformers would remember it for later tests
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor.show() == 1
    out = capsys.readouterr().out
    assert "broken  torch        cannot be imported" in out
    assert "make setup" in out
    assert "ok      machine" in out  # the other checks go on


def torch_with(available: bool, *names: str) -> SimpleNamespace:
    """A CUDA 13 torch that sees cards of these names."""
    cards = [SimpleNamespace(name=name, total_memory=2**34) for name in names]
    return SimpleNamespace(
        version=SimpleNamespace(cuda="13.0"),
        cuda=SimpleNamespace(
            is_available=lambda: available,
            device_count=lambda: len(cards),
            get_arch_list=lambda: ["sm_75", "sm_80"] if available else [],
            get_device_properties=lambda index: cards[index],
            nccl=SimpleNamespace(version=lambda: (2, 28, 9)),
        ),
        distributed=SimpleNamespace(is_nccl_available=lambda: True),
    )


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"avx2": True, "amx_bf16": False}, "no bfloat16"),
        ({"amx_bf16": True, "avx512_bf16": True}, r"bfloat16 (amx_bf16, avx512_bf16): --amp bf16"),
        ({"bf16": True, "architecture": "arm64"}, "arm64, computes in bfloat16 (bf16)"),
    ],
)
def test_a_cpu_with_bfloat16_is_told_how_to_use_it(features: dict, words: str) -> None:
    features = {"architecture": "x86_64", **features}
    torch = SimpleNamespace(cpu=SimpleNamespace(get_capabilities=lambda: features))
    finding = doctor.check_cpu(torch)
    assert finding.level == "ok"
    assert words in finding.text


def test_what_cannot_be_compiled_is_told_with_its_mend(monkeypatch) -> None:
    assert doctor.check_kernels("cpu").level in ("ok", "note")
    monkeypatch.setattr(doctor, "missing_for_kernels", lambda kind: f"a tool of {kind}; get one")
    finding = doctor.check_kernels("cuda")
    assert (finding.level, finding.mend) == ("note", "get one")
    assert finding.text.endswith("fused kernels: this machine lacks a tool of cuda")


def test_a_driver_too_old_for_the_wheel_names_the_older_one() -> None:
    driver = Driver((12, 6), ((8, 0),), "560.35")
    (finding,) = doctor.check_gpus(torch_with(False), driver)
    assert finding.level == "problem"
    assert "560.35" in finding.text
    assert "driver to 580" in finding.mend
    assert "variant cu126" in finding.mend
    assert "requirements-cu126.lock" in finding.mend
    assert only(doctor.check_driver(torch_with(False), driver), "driver").level == "ok"


def test_an_unsupported_gpu_is_a_problem() -> None:
    driver = Driver((13, 0), ((7, 0), (8, 6)))
    findings = list(doctor.check_gpus(torch_with(True, "Tesla V100", "RTX A6000"), driver))
    assert [finding.level for finding in findings] == ["problem", "ok", "ok"]
    assert "7.0" in findings[0].text
    assert "RTX A6000, 16 GiB" in findings[1].text
    assert findings[2].text == "2.28.9"


def test_a_driver_without_a_usable_gpu_names_the_container_flag() -> None:
    finding = only(doctor.check_driver(torch_with(False), Driver((13, 0))), "GPUs")
    assert "--nv" in finding.mend
    assert [f.topic for f in doctor.check_driver(torch_with(False), None)] == ["driver"]


def test_the_wandb_key_is_never_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    doctor.show()
    out = capsys.readouterr().out
    assert "online (WANDB_API_KEY is set)" in out
    assert "0123456789abcdef" not in out
    monkeypatch.delenv("WANDB_API_KEY")
    assert "offline" in doctor.check_wandb().text
    monkeypatch.setenv("WANDB_MODE", "online")
    assert doctor.check_wandb().level == "problem"


def test_unwritable_folders_name_the_key_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "writable", lambda path: False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    findings = list(doctor.check_folders())
    assert any("export HF_HOME=" in finding.mend for finding in findings)
    output = only(iter(findings), "output/")
    assert output.level == "broken"
    assert "trainer.output_dir" in output.mend


def test_little_room_on_the_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=2**28, total=2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert only(doctor.check_folders(), "output/").level == "broken"


def test_an_old_libsndfile_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ValueError("Unknown subtype: 'VORBIS'")

    monkeypatch.setattr("soundfile.SoundFile", refuse)
    finding = only(doctor.check_audio(), "codecs")
    assert finding.level == "broken"
    assert "Unknown subtype" in finding.text


def test_a_gloo_that_finds_no_interface_names_the_variable() -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("unable to resolve host address")

    distributed = SimpleNamespace(
        is_available=lambda: True,
        is_gloo_available=lambda: True,
        HashStore=object,
        init_process_group=fail,
    )
    finding = doctor.check_gloo(SimpleNamespace(distributed=distributed))
    assert finding.level == "problem"
    assert "GLOO_SOCKET_IFNAME" in finding.mend


def test_small_shared_memory_and_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=2**26, total=2**26)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (256, 4096))
    findings = list(doctor.check_limits())
    assert "--shm-size" in only(iter(findings), "/dev/shm").mend
    assert only(iter(findings), "open files").mend == "ulimit -n 4096"


@pytest.mark.parametrize(
    ("python", "mend"),
    [
        (None, "install Python 3.11 or newer"),
        ("exit 1", "install Python 3.11 or newer"),  # what the version check answers under 3.10
        ('case "$2" in *ensurepip*) exit 1; esac', "apt install python3-venv"),
    ],
)
def test_setup_without_a_usable_python_says_so_in_one_sentence(
    tmp_path: Path, python: str | None, mend: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "container").mkdir()
    (tmp_path / "container/requirements-dev.lock").write_text("")
    if python is not None:
        (tmp_path / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (tmp_path / "python3").chmod(0o755)
    result = subprocess.run(
        ["make", "--silent", "setup", f"PYTHON={tmp_path / 'python3'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert mend in said[0]
    assert not (tmp_path / ".venv").exists()


def test_a_default_model_that_is_damaged_is_told_with_its_own_mend(monkeypatch, tmp_path, capsys):
    from open_miipher.restoration import Restorer

    (tmp_path / "default").mkdir()
    load = Restorer.from_checkpoint
    monkeypatch.setattr(Restorer, "from_checkpoint", lambda: load(tmp_path / "default"))
    (finding,) = doctor.check_restoring()
    assert finding.level == "problem"
    assert "git checkout pretrained" in finding.mend
    monkeypatch.setattr(doctor, "findings", doctor.check_restoring)
    assert doctor.show() == 0
    assert "Training runs here; 1 to mend." in capsys.readouterr().out
