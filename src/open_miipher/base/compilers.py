"""What kernels that are compiled where they run need of the machine."""

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

_INSTALL = "on Debian and Ubuntu: apt install g++ python3-dev"


@functools.cache
def missing_for_kernels(device_type: str) -> str | None:
    """Say what Triton (cuda) or torch.compile (cpu) lacks here, and the mend; None: nothing.

    Each builds a Python module. The names of compilers are those that each tries itself.
    """
    if device_type == "cuda":
        named, usual = os.environ.get("CC"), ["gcc", "clang"]
        what = "a C compiler (gcc, clang, or the one that CC names)"
        if importlib.util.find_spec("triton") is None:
            return "Triton, which comes with torch on Linux"
    else:
        named, usual = os.environ.get("CXX"), ["g++"]
        what = "a C++ compiler (g++, or the one that CXX names)"
    if not any(map(shutil.which, usual if named is None else [named])):
        return f"{what}; {_INSTALL}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return f"Python's own headers (Python.h); {_INSTALL}"
    return None
