#!/bin/sh
# All that needs a GPU, in under ten minutes, with weights and audio made on the spot:
#
#     benchmarks/gpu.sh OUT_DIR
#
# Prints a table and leaves OUT_DIR/gpu.json and the logs. Exit status 0: all went well, 1: a check
# failed, 2: there is no usable GPU. PYTHON names the interpreter; by default .venv's, else python3.
# `benchmarks/gpu.sh OUT_DIR --device cpu --tiny` rehearses everything on a CPU at a small size.
set -eu
here=$(dirname "$0")
if [ -z "${PYTHON:-}" ]; then
    PYTHON="$here/../.venv/bin/python"
    [ -x "$PYTHON" ] || PYTHON=python3
fi
exec "$PYTHON" "$here/gpu_checks.py" "$@"
