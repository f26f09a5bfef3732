#!/usr/bin/env bash
# How long it takes from nothing to the first restored file: an empty virtual environment, the wheel
# installed into it with all that it needs (several GB from the package index), one file restored.
#
#   benchmarks/from_nothing.sh [RECORDING]
#
# PIP_ARGS, such as "--index-url https://download.pytorch.org/whl/cpu --extra-index-url
# https://pypi.org/simple", goes to pip. Writes nothing outside a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."

recording=$(realpath "${1:-dataset/demo/speech/test/owl.flac}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra pip_args <<<"${PIP_ARGS:-}"

step() { # step NAME COMMAND…: run a command in the temporary folder and print what it took
  local name=$1 began=$EPOCHREALTIME
  shift
  (cd "$work" && "$@" >"$work/log" 2>&1) || {
    cat "$work/log" >&2
    exit 1
  }
  awk -v name="$name" -v began="$began" -v ended="$EPOCHREALTIME" \
    'BEGIN { printf "%-28s %7.1f s\n", name, ended - began }'
}

git archive HEAD pyproject.toml setup.py README.md LICENSE THIRD_PARTY_NOTICES.md src config pretrained |
  tar -x -C "$work" --one-top-level=source
all=$EPOCHREALTIME
step "an empty environment" python3 -m venv env
step "the wheel" env/bin/pip wheel --quiet --no-deps -w . ./source
step "installed with all it needs" env/bin/pip install --quiet --no-cache-dir "${pip_args[@]}" \
  "$(basename "$work"/*.whl)"
step "the first file restored" env HF_HUB_OFFLINE=1 env/bin/open-miipher restore "$recording" first.wav
step "the second file restored" env HF_HUB_OFFLINE=1 env/bin/open-miipher restore "$recording" second.wav
awk -v began="$all" -v ended="$EPOCHREALTIME" 'BEGIN { printf "%-28s %7.1f s\n", "in all", ended - began }'
echo "environment: $(du -sh "$work/env" | cut -f1), wheel: $(du -h "$work"/*.whl | cut -f1)"
cmp "$work/first.wav" "$work/second.wav"
