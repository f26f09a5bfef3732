"""Drivers and cards against wheels: what runs, and which variant the sentence names if not."""

import sys
from types import SimpleNamespace

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.base.gpu_support import Driver, gpu_problem, read_driver, runs_on
from open_miipher.distributed import start, world

CU130 = ("13.0", ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"])
CU126 = ("12.6", ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"])
VOLTA, AMPERE, HOPPER, BLACKWELL = (7, 0), (8, 0), (9, 0), (12, 0)


def wheel(cuda: str | None, architectures: list[str]) -> SimpleNamespace:
    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(get_arch_list=lambda: architectures),
    )


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # same major, newer minor
        ((7, 0), ["sm_75", "sm_80"], False),  # Volta is gone from CUDA 13
        ((12, 1), ["sm_90", "sm_120"], True),
        ((12, 0), ["sm_90", "compute_90"], True),  # PTX is compiled by the driver
        ((12, 0), ["sm_90", "sm_100a"], False),
    ],
)
def test_which_gpus_a_wheel_has_code_for(
    capability: tuple[int, int], architectures: list[str], expected: bool
) -> None:
    assert runs_on(capability, architectures) is expected


@pytest.mark.parametrize(
    ("build", "cuda_version", "capability"),
    [
        (CU130, (13, 0), HOPPER),
        (CU130, (13, 1), BLACKWELL),
        (CU126, (12, 2), AMPERE),  # minor versions are compatible
        (CU126, (13, 0), VOLTA),  # an old wheel under a new driver
    ],
)
def test_a_pair_that_runs_has_no_problem(
    build: tuple[str, list[str]], cuda_version: tuple[int, int], capability: tuple[int, int]
) -> None:
    assert gpu_problem(wheel(*build), Driver(cuda_version, (capability,))) is None


@pytest.mark.parametrize(
    ("build", "cuda_version", "capability", "words", "mend"),
    [
        (CU130, (12, 8), HOPPER, "570.86 runs CUDA up to 12.8", "variant cu126"),
        (CU130, (12, 8), HOPPER, "too old for the installed wheels", "driver to 580"),
        (CU130, (12, 4), VOLTA, "too old", "variant cu126"),
        (CU130, (13, 0), VOLTA, "no code for GPU 0 of compute capability 7.0", "variant cu126"),
        (CU126, (13, 0), BLACKWELL, "no code for GPU 0", "variant cu130"),
    ],
)
def test_a_problem_names_the_variant_to_build(
    build: tuple[str, list[str]],
    cuda_version: tuple[int, int],
    capability: tuple[int, int],
    words: str,
    mend: str,
) -> None:
    problem = gpu_problem(wheel(*build), Driver(cuda_version, (capability,), "570.86"))
    assert problem is not None
    assert words in problem.text
    assert mend in problem.mend


def test_where_no_variant_helps_none_is_named() -> None:
    old = gpu_problem(wheel(*CU126), Driver((11, 4), (AMPERE,)))
    assert old is not None
    assert old.mend == "update the driver to 525 or later"
    kepler = gpu_problem(wheel(*CU126), Driver((12, 4), ((3, 5),)))
    assert kepler is not None
    assert "variant" not in kepler.mend


def test_only_the_asked_card_counts() -> None:
    driver = Driver((13, 0), (HOPPER, VOLTA))
    assert gpu_problem(wheel(*CU130), driver, 0) is None
    assert gpu_problem(wheel(*CU130), driver, 1) is not None
    assert gpu_problem(wheel(*CU130), driver, 2) is None


def test_without_a_driver_or_a_card_the_cpu_is_free() -> None:
    assert gpu_problem(wheel(*CU130), None) is None
    assert gpu_problem(wheel(*CU130), Driver((11, 0))) is None


def test_a_cpu_wheel_beside_a_card_is_said() -> None:
    problem = gpu_problem(wheel(None, []), Driver((13, 0), (HOPPER,)))
    assert problem is not None
    assert "CPU wheel" in problem.text


def test_the_driver_here_is_read_or_absent() -> None:
    driver = read_driver()
    assert driver is None or driver.cuda_version >= (10, 0)


def test_a_run_ends_in_one_sentence_and_the_cpu_stays_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(world, "read_driver", lambda: Driver((12, 8), (HOPPER,), "570.86"))
    with pytest.raises(UserError, match=r"variant cu126 .*trainer\.device=cpu") as caught:
        start()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cu126"):
        start("cuda")
    assert start("cpu").device.type == "cpu"
    monkeypatch.setattr(world, "read_driver", lambda: Driver((12, 8)))  # a driver, no card
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start().device.type == "cpu"


def test_it_loads_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "open_miipher.base.gpu_support")
    from open_miipher.base import gpu_support

    assert [variant.name for variant in gpu_support.VARIANTS] == ["cu130", "cu126"]
