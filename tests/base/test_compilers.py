"""What kernels that are compiled where they run need of the machine."""

import importlib.util
import os
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import pytest

from open_miipher.base.compilers import missing_for_kernels, set_up_compiler
from open_miipher.base.errors import UserError
from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with headers and Triton, and an empty folder of programs, which is returned."""
    programs, headers = tmp_path / "bin", tmp_path / "include"
    for folder in (programs, headers):
        folder.mkdir()
    (headers / "Python.h").touch()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(headers))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    missing_for_kernels.cache_clear()
    yield programs
    missing_for_kernels.cache_clear()


def put(folder: Path, name: str) -> None:
    program = folder / name
    program.touch()
    os.chmod(program, 0o755)


@pytest.mark.parametrize(
    ("device", "program", "variable", "message"),
    [("cuda", "gcc", "CC", "a C compiler"), ("cpu", "g++", "CXX", "a C++ compiler")],
)
def test_a_compiler_is_found_or_asked_for(bare, monkeypatch, device, program, variable, message):
    find = missing_for_kernels.__wrapped__
    assert find(device).startswith(message)
    put(bare, program)
    assert find(device) is None
    monkeypatch.setenv(variable, "other")  # which is then the only one that is tried
    assert find(device) is not None
    put(bare, "other")
    assert find(device) is None


def test_headers_and_triton_are_needed_too(bare, monkeypatch, tmp_path):
    find = missing_for_kernels.__wrapped__
    put(bare, "gcc")
    (tmp_path / "include/Python.h").unlink()
    assert "headers (Python.h); on Debian" in find("cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find("cuda").startswith("Triton")


def test_a_run_that_cannot_compile_ends_before_anything_is_made(bare, tiny_stages, tmp_path):
    given = [*tiny_stages["cleaner"], f"trainer.output_dir={tmp_path / 'run'}"]
    run = compose_run([*given, "trainer.compile=true", "trainer.max_steps=1"])
    with pytest.raises(UserError, match=r"trainer.compile=true .* lacks a C\+\+ compiler"):
        prepare(run, start("cpu"))
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_is_killed_leaves_no_file_that_looks_complete(tmp_path):
    from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder
    from torch._inductor.exc import CppCompileError

    program, target = tmp_path / "g++", tmp_path / "kernel.so"
    finds = 'for word; do file=$word; done; test ! -e "${file%.so*}.so" || exit 1'
    builder = CppBuilder("kernel", "kernel.cpp", BuildOptionsBase(str(program)), str(tmp_path))
    set_up_compiler()
    for words in ("printf half > $file; kill -9 $$", "printf whole > $file"):
        put(tmp_path, "g++")
        program.write_text(f"#!/bin/sh\n{finds}\n{words}\n")
        assert not target.exists()
        with pytest.raises(CppCompileError) if "half" in words else nullcontext():
            builder.build()
    assert target.read_text() == "whole"
    assert builder.get_target_file_path() == str(target)


def test_headers_are_not_compiled_ahead_where_openssl_is_missing(bare, monkeypatch):
    from torch._inductor import config, cpp_builder

    monkeypatch.setattr(cpp_builder.CppBuilder, "build", cpp_builder.CppBuilder.build)
    put(bare, "openssl")
    with config.patch(cpp_cache_precompile_headers=True):
        set_up_compiler.__wrapped__()
        assert config.cpp_cache_precompile_headers
        (bare / "openssl").unlink()
        set_up_compiler.__wrapped__()
        assert not config.cpp_cache_precompile_headers
