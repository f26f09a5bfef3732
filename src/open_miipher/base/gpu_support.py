"""Whether the driver and the GPUs of this machine are ones that the installed torch can use.

Needs the standard library only; torch is handed in, so that this also speaks where it is missing.
"""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# CUDA's driver API (cuda.h): what its functions return, and two attributes of a card.
_SUCCESS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 0, 75, 76


class Variant(NamedTuple):
    """One build of the wheels and of the image.

    Attributes:
        name: as the image's build argument CUDA takes it.
        cuda: major version of its CUDA, which the driver must run (minor ones are compatible).
        driver: lowest release of the NVIDIA driver for it (CUDA's compatibility guide).
        oldest: lowest compute capability that its wheels have code for (torch's release notes).
        newest: highest one.
    """

    name: str
    cuda: int
    driver: int
    oldest: tuple[int, int]
    newest: tuple[int, int]


VARIANTS = (  # the one to prefer first
    Variant("cu130", 13, 580, (7, 5), (12, 9)),
    Variant("cu126", 12, 525, (5, 0), (9, 9)),
)


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says by itself, whatever torch was built for.

    Attributes:
        cuda_version: the newest CUDA it runs.
        capabilities: compute capability of each card that this process may see.
        release: such as "580.65.06".
    """

    cuda_version: tuple[int, int]
    capabilities: tuple[tuple[int, int], ...] = ()
    release: str = "of unknown release"


def read_driver() -> Driver | None:
    """Ask the installed driver; None without one."""
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
    """Return each visible card's compute capability; none where the driver finds no card."""
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

    Binary code (sm) runs on the same major version from its minor version on; PTX (compute) is
    compiled by the driver for every newer GPU.
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
    """Why the GPUs here cannot be used, and what to do about it."""

    text: str
    mend: str


def gpu_problem(torch: ModuleType, driver: Driver | None, index: int = 0) -> Problem | None:
    """Return why the installed torch cannot use a card of this machine.

    Args:
        torch: the module; only its versions and its list of architectures are read.
        driver: what `read_driver` found.
        index: the card, as this process counts them.

    Returns:
        None where it can, and where there is no driver or no such card: nothing is in the way of
        the CPU then.
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
    """Name the variant that this driver and card can use, if there is one."""
    for variant in VARIANTS:
        if driver.cuda_version[0] >= variant.cuda and (
            variant.oldest <= capability <= variant.newest
        ):
            return f"build the image's variant {variant.name} (docs/container.md), or "
    return ""
