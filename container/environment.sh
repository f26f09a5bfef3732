# shellcheck shell=sh
# What holds inside the image, whoever starts it (read by the definition files and by entry.sh).
export PATH="/opt/venv/bin:$PATH"
# Nothing of the host's Python: neither ~/.local nor what a module file has put on the path.
export PYTHONNOUSERSITE=1
export PYTHONPATH='' PYTHONHOME='' # Apptainer takes no notice of `unset`
export PYTHONUNBUFFERED=1
export PYTHONDONTWRITEBYTECODE=1
# Home may be read-only, slow or not bound at all.
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/triton-$(id -u)}"
export MPLCONFIGDIR="${MPLCONFIGDIR:-${TMPDIR:-/tmp}/matplotlib-$(id -u)}"
# torchrun calls this machine by its name; where the name leads nowhere, it would wait for minutes.
if [ -z "${PET_LOCAL_ADDR:-}" ] && ! getent hosts "$(cat /proc/sys/kernel/hostname)" >/dev/null; then
  export PET_LOCAL_ADDR=127.0.0.1 # as torchrun --local-addr, which wins
fi
