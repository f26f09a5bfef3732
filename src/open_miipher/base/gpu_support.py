"""Check whether the installed torch can use this machine's driver and GPUs.

Imports the standard library only; torch is passed in, so that this also works without it.
"""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# CUDA's driver API (cuda.h): a return value of its functions, and two attributes of a card.
_SUCCESS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 0, 75, 76


class Variant(NamedTuple):
    """One build of the wheels and of the image.

    Attributes:
        name: value of the image's build argument CUDA.
        cuda: major version of CUDA that the driver must support (minor ones are compatible).
        driver: lowest release of the NVIDIA driver for it (CUDA's compatibility guide).
        oldest: lowest compute capability that its wheels have code for (torch's release notes).
        newest: highest one.
    """

    name: str
    cuda: int
    driver: int
    oldest: tuple[int, int]
    newest: tuple[int, int]


VARIANTS = (  # in order of preference
    Variant("cu130", 13, 580, (7, 5), (12, 9)),
    Variant("cu126", 12, 525, (5, 0), (9, 9)),
)


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver reports, independently of torch.

    Attributes:
        cuda_version: the newest CUDA that the driver supports.
        capabilities: compute capability of each card that is visible to this process.
        release: such as "580.65.06".
    """

    cuda_version: tuple[int, int]
    capabilities: tuple[tuple[int, int], ...] = ()
    release: str = "of unknown release"


def read_driver() -> Driver | None:
    """Query the installed driver; None if there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(version)) != _SUCCESS:
        return None
    cuda_version = version.value // 1000, version.value % 1000 // 10
    return Driver(cuda_version, _capabilities(library), _release())


def _capabilities(library: ctypes.CDLL) -> tuple[tuple[int, int], ...]:
    """Return each visible card's compute capability; empty if the driver finds no card."""
    count = ctypes.c_int(0)
    if library.cuInit(0) != _SUCCESS or library.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS:
        return ()
    found = []
    for index in range(count.value):
        parts = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int(0)
            library.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
            parts.append(value.value)
        found.append((parts[0], parts[1]))
    return tuple(found)


def _release() -> str:
    """Return the driver's release as the kernel module names it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return Driver.release
    match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    return match.group(1) if match else Driver.release


def runs_on(capability: tuple[int, int], arch_list: list[str]) -> bool:
    """Whether code for one of `arch_list` (such as sm_90, compute_120) runs on a GPU.

    Binary code (sm) runs on the same major version if the minor one is equal or higher. The driver
    compiles PTX (compute) for every newer GPU.
    """
    for arch in arch_list:
        kind, digits = arch.split("_")
        major, minor = int(digits.rstrip("af")[:-1]), int(digits.rstrip("af")[-1])
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= capability:
            return True
    return False


class Problem(NamedTuple):
    """Why the GPUs of this machine cannot be used, and how to fix it."""

    text: str
    mend: str


def gpu_problem(torch: ModuleType, driver: Driver | None, index: int = 0) -> Problem | None:
    """Return why the installed torch cannot use a card of this machine.

    Args:
        torch: the module; only its versions and its list of architectures are read.
        driver: what `read_driver` found.
        index: the card, as this process counts them.

    Returns:
        The problem. None if torch can use the card, or if there is no driver or no such card: then
        the CPU is used.
    """
    if driver is None or index >= len(driver.capabilities):
        return None
    capability = driver.capabilities[index]
    card = f"GPU {index} of compute capability {capability[0]}.{capability[1]}"
    if torch.version.cuda is None:
        return Problem(f"{card} is here, but torch is a CPU wheel", "install the ordinary one")
    wheels = f"the installed wheels (CUDA {torch.version.cuda})"
    major = int(torch.version.cuda.split(".")[0])
    if driver.cuda_version[0] < major:
        lowest = next((v.driver for v in VARIANTS if v.cuda == major), "a newer one")
        text = (
            f"the NVIDIA driver {driver.release} runs CUDA up to "
            f"{driver.cuda_version[0]}.{driver.cuda_version[1]}, too old for {wheels}"
        )
        return Problem(text, f"{_build(driver, capability)}update the driver to {lowest} or later")
    if not runs_on(capability, torch.cuda.get_arch_list()):
        text = f"{wheels} have no code for {card}"
        return Problem(text, f"{_build(driver, capability)}use another GPU")
    return None


def _build(driver: Driver, capability: tuple[int, int]) -> str:
    """Return advice to build the variant that this driver and card can use, or "" without one."""
    for variant in VARIANTS:
        if driver.cuda_version[0] >= variant.cuda and (
            variant.oldest <= capability <= variant.newest
        ):
            return f"build the image's variant {variant.name} (docs/container.md), or "
    return ""
