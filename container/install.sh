#!/usr/bin/env bash
# Install everything that the image needs into a bare Debian 13, as root: system packages, the locked
# Python packages in /opt/venv, labels. The code is beside this script. All three ways to build run
# it: Open-Miipher-2.def, container/Open-Miipher-2.debootstrap.def, container/Dockerfile.
#
#   container/install.sh [cu130|cu126]
set -euo pipefail

cuda=${1:-cu130}
code=$(cd "$(dirname "$0")/.." && pwd)
venv=/opt/venv

lock=$code/container/requirements.lock
[ "$cuda" = cu130 ] || lock=$code/container/requirements-$cuda.lock
if [ ! -f "$lock" ]; then
  echo "error: CUDA=$cuda has no ${lock#"$code"/}: run 'container/lock.sh $cuda'," \
    "then build again" >&2
  exit 2
fi

# Certificates for the model hub; the user libraries of InfiniBand, without which NCCL uses slow
# sockets; a compiler and Python's headers for trainer.compile and Triton's kernels. The wheels
# contain everything else (CUDA, NCCL, libsndfile, ffmpeg).
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends \
  ca-certificates python3 python3-venv libibverbs1 ibverbs-providers librdmacm1 \
  g++ python3-dev
apt-get clean
rm -rf /var/lib/apt/lists/*

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --no-cache-dir --disable-pip-version-check \
  --require-hashes -r "$lock"

# For `python -c "import …"`; the scripts of a bound checkout put their own src first.
echo "$code/src" >"$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/open_miipher.pth"
find "$code" -name __pycache__ -prune -exec rm -rf {} +
"$venv/bin/python" -m compileall -q "$code/src" # the image is read-only later

[ -f "$code/COMMIT" ] || echo unknown >"$code/COMMIT"
echo "$cuda" >"$code/CUDA"
labels=${APPTAINER_LABELS:-${SINGULARITY_LABELS:-}}
if [ -n "$labels" ]; then
  {
    echo "org.opencontainers.image.version $("$venv/bin/python" -c 'import open_miipher; print(open_miipher.__version__)')"
    echo "org.opencontainers.image.revision $(cat "$code/COMMIT")"
    echo "open-miipher-2.cuda $cuda"
  } >>"$labels"
fi
