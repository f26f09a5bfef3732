# shellcheck shell=sh
# The environment inside the image (the definition files and entry.sh read it).
export PATH="/opt/venv/bin:$PATH"
# Keep the host's Python packages out: ~/.local, and what module files put on PYTHONPATH.
export PYTHONNOUSERSITE=1
export PYTHONPATH='' PYTHONHOME='' # Apptainer ignores `unset`
export PYTHONUNBUFFERED=1
export PYTHONDONTWRITEBYTECODE=1
# Home may be read-only, slow or not bound at all.
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/triton-$(id -u)}"
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/torchinductor-$(id -u)}"
# A user without an entry in /etc/passwd has no name, which torch asks for.
export USER="${USER:-${LOGNAME:-uid$(id -u)}}"
export HOME="${HOME:-${TMPDIR:-/tmp}/home-$(id -u)}"
export MPLCONFIGDIR="${MPLCONFIGDIR:-${TMPDIR:-/tmp}/matplotlib-$(id -u)}"
# torchrun looks up this machine's name. If the name has no address, it would wait for minutes.
if [ -z "${PET_LOCAL_ADDR:-}" ] && ! getent hosts "$(cat /proc/sys/kernel/hostname)" >/dev/null; then
  export PET_LOCAL_ADDR=127.0.0.1 # the default of torchrun --local-addr
fi
