#!/usr/bin/env bash
# Entry point of the image: `singularity run Open-Miipher-2.sif COMMAND ARGUMENTS`.
set -euo pipefail
code=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${SINGULARITY_CONTAINER:-}" ]; then # Docker does not read it by itself
  # shellcheck source=container/environment.sh
  . "$code/container/environment.sh"
fi

usage() {
  cat <<'END'
singularity run [--nv] Open-Miipher-2.sif COMMAND ARGUMENTS

  train      train one stage, or resume it            src/train.py
  restore    restore a directory                      src/inference.py
  demo       the whole job at a small size            src/demo
  index      list a directory's audio                 dataset/script/make_metadata_csv.py
  rir-bank   make room impulse responses              dataset/script/make_rir_bank.py
  preview    listen to the degradations               dataset/script/preview_degradations.py
  fetch      put encoders into the cache HF_HOME      src/fetch_models.py
  status     how far a restoration is                 src/status.py
  doctor     what this machine can run                src/doctor.py
  exec       any program of the image                 torchrun, python, …

COMMAND -h explains each. train and restore start NPROC processes on this machine (default: one a
GPU, or one). The code is /opt/open-miipher-2; bind a checkout there to run yours.
END
}

# One process for each GPU of the driver; without torch, which takes seconds to import.
num_processes() {
  python - "$code/src" <<'END'
import sys
sys.path.insert(0, sys.argv[1])
from open_miipher.base.gpu_support import read_driver
driver = read_driver()
print(len(driver.capabilities) if driver and driver.capabilities else 1)
END
}

launch() {
  local processes=${NPROC:-$(num_processes)}
  exec torchrun --standalone --nproc_per_node "$processes" \
    --signals-to-handle SIGTERM,SIGINT,SIGUSR2 "$@"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
  train) launch "$code/src/train.py" "$@" ;;
  restore) launch "$code/src/inference.py" "$@" ;;
  demo) exec python "$code/src/demo" --output-dir "$PWD/output/demo" "$@" ;;
  index) exec python "$code/dataset/script/make_metadata_csv.py" "$@" ;;
  rir-bank) exec python "$code/dataset/script/make_rir_bank.py" "$@" ;;
  preview) exec python "$code/dataset/script/preview_degradations.py" "$@" ;;
  fetch) exec python "$code/src/fetch_models.py" "$@" ;;
  status) exec python "$code/src/status.py" "$@" ;;
  doctor) exec python "$code/src/doctor.py" "$@" ;;
  exec) exec "$@" ;;
  help | -h | --help) usage ;;
  *)
    echo "error: $command is no command of this image; 'singularity run IMAGE help' lists them" >&2
    exit 2
    ;;
esac
