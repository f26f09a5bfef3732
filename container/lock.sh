#!/usr/bin/env bash
# Make the lock files from pyproject.toml; needs uv (pip install uv) and a network.
#
#   container/lock.sh cu130    for the image and for .venv
#   container/lock.sh cu126    the same packages, but the newest torch whose ordinary wheels are
#                              built for CUDA 12.6
#
# Pins that still fit are kept; remove a lock file to choose all versions again.
set -euo pipefail
cd "$(dirname "$0")"

compile() {
  (cd .. && uv pip compile --quiet --no-header --generate-hashes --universal \
    --python-version 3.11 pyproject.toml "$@")
}

case ${1:-} in
  cu130)
    compile --output-file container/requirements.lock
    none=$(mktemp)
    trap 'rm -f "$none"' EXIT
    # descript-audio-codec requires the first two. A test uses only its decoder, which does not need
    # them, and descript-audiotools pins older versions than ours. Resemblyzer requires the next
    # two: webrtcvad-wheels is the same as webrtcvad, built, and typing is a part of Python. PESQ
    # has to be built: `make setup` tries to. docopt is for the command that num2words comes with.
    # gradio has not yet said that it takes the newest Pillow; nothing of ours passes it an image.
    printf '%s; python_version < "3"\n' descript-audiotools argbind webrtcvad typing pesq docopt \
      >"$none"
    echo "pillow>=10" >>"$none"
    compile --extra dev --extra evaluation --extra text --extra synthesis --extra ray --extra words \
      --extra app --extra onnx --override "$none" --constraint container/requirements.lock \
      --output-file container/requirements-dev.lock
    ;;
  cu126)
    others=$(mktemp) torch=$(mktemp)
    trap 'rm -f "$others" "$torch"' EXIT
    printf '%s\n' torch==2.7.1 torchaudio==2.7.1 >"$torch"
    # torch's own dependencies differ between the variants; the rest stays as in the other lock.
    grep -E '^[a-z0-9._-]+==' requirements.lock | sed 's/ *\\$//' |
      grep -vE '^(torch|torchaudio|triton|nvidia-|cuda-)' >"$others"
    compile --override "$torch" --constraint "$others" \
      --output-file container/requirements-cu126.lock
    ;;
  *)
    echo "error: name the lock: container/lock.sh cu130, or container/lock.sh cu126" >&2
    exit 2
    ;;
esac
