"""What kernels that are compiled where they run need of the machine."""

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._inductor.cpp_builder import CppBuilder

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


@functools.cache
def set_up_compiler() -> None:
    """Have torch.compile leave nothing half built on a CPU, and do without openssl.

    It takes any file of a name for a complete one, now and in every later run. A g++ that is
    killed, or goes on after its rank was killed, leaves a part for seconds or for good: of a
    header that is compiled ahead, on which each later g++ fails or which it leaves aside, or of a
    library, on which Python ends without a word (SIGBUS). So a file is built beside its name, and
    then renamed.

    Headers are compiled ahead to save time, and openssl, a program that not every machine has,
    tells whether they changed.
    """
    from torch._inductor import config
    from torch._inductor.cpp_builder import CppBuilder

    stock = CppBuilder.build

    def build(self: "CppBuilder") -> None:
        target, output = self._target_file, self._output
        beside = f"{target}.{os.getpid()}.tmp"
        self._output = output.replace(target, beside)
        try:
            stock(self)
        finally:
            self._output = output
        os.replace(beside, target)

    CppBuilder.build = build
    if shutil.which("openssl") is None:
        config.cpp_cache_precompile_headers = False
