#!/usr/bin/env bash
# Build the image from nothing and do the whole job inside it: train three stages with two processes,
# kill and resume one of them, restore. With the checkout bound read-only and with the image's own
# code; without a network, and with a home whose packages would break it.
#
#   container/test.sh [DEFINITION]
#
# The definition is Open-Miipher-2.def by default. If DEBIAN_MIRROR is set (CONTAINER_RUN may set it),
# it is container/Open-Miipher-2.debootstrap.def with that mirror, which needs no image registry.
# Variables: CONTAINER_RUN, a command to put before `singularity`; CUDA, the variant; COMPRESSION,
# arguments for mksquashfs ("-comp zstd -Xcompression-level 1" is faster); IMAGE, an image to test
# instead of building one.
# If a built image passes, container/tested.txt records it.
set -euo pipefail
cd "$(dirname "$0")/.."

cuda=${CUDA:-cu130}
work=$PWD/output/container
image=${IMAGE:-$work/Open-Miipher-2.sif}
read -ra runner <<<"${CONTAINER_RUN:-}"
singularity=("${runner[@]}" singularity)
mirror=$("${runner[@]}" printenv DEBIAN_MIRROR || true)
definition=${1:-${mirror:+container/Open-Miipher-2.debootstrap.def}}
definition=${definition:-Open-Miipher-2.def}
fingerprint=$(container/fingerprint.sh)

say() { printf '\n=== %s\n' "$*"; }
fail() {
  echo "error: $*" >&2
  exit 1
}

# Run a command and put the seconds that it took into $seconds.
timed() {
  local start=$EPOCHREALTIME
  "$@"
  seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
}

build() {
  local arguments=(--build-arg "CUDA=$cuda")
  if [ -n "$mirror" ] && grep -q '^Bootstrap: debootstrap' "$definition"; then
    arguments+=(--build-arg "MIRROR=$mirror")
  fi
  [ -z "${COMPRESSION:-}" ] || arguments+=(--mksquashfs-args "$COMPRESSION")
  "${singularity[@]}" build --force --fakeroot "${arguments[@]}" "$image" "$definition"
}

# Run a program of the image on this checkout, bound read-only, with loopback as the only network.
inside() {
  PYTHONPATH=$work/home/shadow "${singularity[@]}" exec --net --network none \
    --home "$work/home" --bind "$PWD:/mnt/code:ro" --bind "$work" --pwd /mnt/code \
    --env HF_HUB_OFFLINE=1,WANDB_MODE=offline,OMP_NUM_THREADS=1 "$image" "$@"
}

# Make a home and a PYTHONPATH whose packages break every program that imports them.
make_traps() {
  local version folder
  version=$("${singularity[@]}" exec "$image" python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  for folder in "$work/home/.local/lib/python$version/site-packages" "$work/home/shadow"; do
    mkdir -p "$folder"
    echo 'raise RuntimeError("a package of the host was imported")' |
      tee "$folder/soundfile.py" "$folder/usercustomize.py" "$folder/yaml.py" >/dev/null
  done
}

train() { # RUN STEPS OVERRIDE…
  local run=$1 steps=$2
  shift 2
  inside torchrun --standalone --nproc_per_node 2 src/train.py \
    'data.train.dir_list=[dataset/demo/speech/train]' \
    'data.train.noise_dir_list=[dataset/demo/noise]' \
    'data.test.dir_list=[dataset/demo/speech/test]' \
    trainer.batch_size=4 trainer.log_every=1 "trainer.max_steps=$steps" \
    "trainer.output_dir=$work/$run" "$@" >>"$work/$run.log" 2>&1
}

# Kill a process and all its descendants at once, as a power failure would.
kill_tree() {
  local pids=("$1") i
  for ((i = 0; i < ${#pids[@]}; i++)); do
    read -ra children < <(cat "/proc/${pids[i]}"/task/*/children 2>/dev/null | tr '\n' ' ') || true
    pids+=("${children[@]}")
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
}

train_killed() { # like train, but killed after the first checkpoint
  train "$@" &
  local pid=$! run=$1
  until compgen -G "$work/$run/ckpt/step-*/state.json" >/dev/null; do
    kill -0 "$pid" 2>/dev/null || fail "the training ended before it could be killed: $work/$run.log"
    sleep 0.2
  done
  kill_tree "$pid"
  wait "$pid" 2>/dev/null && fail "the killed training ended well"
  echo "killed after its first checkpoint"
}

mkdir -p "$work"
find "$work" -mindepth 1 -maxdepth 1 ! -name '*.sif' -exec rm -rf {} +

if [ -z "${IMAGE:-}" ]; then
  say "Build $definition, CUDA=$cuda"
  timed build
  build_seconds=$seconds
fi
bytes=$(stat -c %s "$image")
"${singularity[@]}" inspect "$image"
make_traps

say "Start-up"
timed inside true
start_seconds=$seconds
timed inside torchrun --standalone --nproc_per_node 2 --no-python true
torchrun_seconds=$seconds
echo "singularity exec: $start_seconds s; with torchrun and two processes: $torchrun_seconds s"

say "Stage 1, unbroken, and again with a kill and a resume"
train stage1 8 model=demo_feature_cleaner trainer.save_every=4
inside python container/check_run.py steps "$work/stage1" 8
train_killed stage1_again 8 model=demo_feature_cleaner trainer.save_every=4 trainer.ckpt_dir=auto
train stage1_again 8 model=demo_feature_cleaner trainer.save_every=4 trainer.ckpt_dir=auto
grep -q '^resumed from .*/step-00000004 ' "$work/stage1_again.log" || fail "step 4 was not resumed"
inside python container/check_run.py steps "$work/stage1_again" 8
inside python container/check_run.py same "$work/stage1" "$work/stage1_again"

say "Stage 2"
train stage2 6 model=demo_wavefit_pretrain
inside python container/check_run.py steps "$work/stage2" 6

say "Stage 3"
train stage3 4 model=demo_wavefit_finetune \
  "model.cleaner_ckpt_dir=$work/stage1" "model.vocoder_ckpt_dir=$work/stage2"
inside python container/check_run.py steps "$work/stage3" 4

say "Two compiled steps, with codecs of the system; and what Triton needs"
train compiled 2 model=demo_feature_cleaner trainer.compile=true
inside python container/check_run.py steps "$work/compiled" 2
inside python -c 'import sys; from open_miipher.base.compilers import missing_for_kernels
sys.exit(missing_for_kernels("cuda"))'

say "Restore, with the bound code"
inside torchrun --standalone --nproc_per_node 2 src/inference.py --ckpt-dir "$work/stage3" \
  --input-audio-dir dataset/demo/speech/test --output-dir "$work/restored"
inside python container/check_run.py restored dataset/demo/speech/test "$work/restored"

say "Restore and diagnose, with the image's own code"
run_image() { NPROC=2 "${singularity[@]}" run --bind "$work" --pwd "$work" "$image" "$@"; }
cp -r dataset/demo/speech/test "$work/noisy"
run_image restore --input-audio-dir noisy \
  --output-dir restored_by_image
inside python container/check_run.py restored "$work/noisy" "$work/restored_by_image"
run_image doctor
status=0
run_image nonsense || status=$?
[ "$status" = 2 ] || fail "an unknown command ended with status $status, not 2"

say "Passed: $definition, CUDA=$cuda"
summary="image $((bytes / 1000000)) MB; singularity exec $start_seconds s; torchrun $torchrun_seconds s"
echo "${build_seconds:+built in $build_seconds s; }$summary"
if [ -z "${IMAGE:-}" ]; then
  printf '%s\n' "fingerprint $fingerprint" "definition $definition" "cuda $cuda" \
    "builder $("${singularity[@]}" --version)" "image_bytes $bytes" >container/tested.txt
fi
