#!/bin/sh
# Run all checks that need a GPU, in under ten minutes, with random weights and generated audio:
#
#     benchmarks/gpu.sh OUT_DIR
#
# Prints a table; writes logs, and OUT_DIR/gpu.json anew after each check, first those that
# benchmarks/README.md has rows for. `--only TEXT …` runs those alone whose names have a text in
# them; `--longest SECONDS` gives one of them more than its 150 s (compiling takes minutes). Exit
# status 0: all checks passed, 1: a check failed or its time was over, 2: there is no usable GPU.
# PYTHON names the interpreter; by default .venv's, else python3.
# `benchmarks/gpu.sh OUT_DIR --device cpu --tiny` rehearses everything on a CPU at a small size.
set -eu
here=$(dirname "$0")
if [ -z "${PYTHON:-}" ]; then
    PYTHON="$here/../.venv/bin/python"
    [ -x "$PYTHON" ] || PYTHON=python3
fi
exec "$PYTHON" "$here/gpu_checks.py" "$@"
