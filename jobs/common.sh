# shellcheck shell=bash disable=SC2034  # the scripts that source this use what it sets
# What the job scripts share. Each sources it from the repository's root, from where it is submitted:
# batch systems run a copy of a script, elsewhere.
set -euo pipefail

# --- Variables: give them in the environment, or change them here. Spaces separate folders. -------
IMAGE="${IMAGE:-}"              # Open-Miipher-2.sif; empty: the active Python environment, or .venv
BIND="${BIND:-}"                # folders that the image shall see besides those named below
SPEECH_DIRS="${SPEECH_DIRS:-}"  # indexed clean speech (make_index.sh)
NOISE_DIRS="${NOISE_DIRS:-}"    # indexed noise; empty: generated
RIR_DIRS="${RIR_DIRS:-}"        # indexed impulse responses; empty: generated
TEST_DIRS="${TEST_DIRS:-}"      # indexed speech that is held back; empty: no validation
OUTPUT_DIR="${OUTPUT_DIR:-}"    # what the run writes; each script has a default
MODEL="${MODEL:-}"              # model configuration; each script has a default
STAGE1_DIR="${STAGE1_DIR:-output/stage1}"  # for stage 3
STAGE2_DIR="${STAGE2_DIR:-output/stage2}"
INIT_FROM="${INIT_FROM:-}"      # finetune.sh: the run or checkpoint that gives the weights
BATCH_SIZE="${BATCH_SIZE:-}"    # samples a step, over all processes; empty: the model's own
NPROC="${NPROC:-gpu}"           # processes a node; gpu: one for each GPU
MAX_RESTARTS="${MAX_RESTARTS:-3}"  # how often a training that lost a process restarts by itself
CKPT_DIR="${CKPT_DIR:-output/stage3}"  # restore*.sh: the chain
INPUT_DIR="${INPUT_DIR:-}"      # restore*.sh: what to restore
NUM_SHARDS="${NUM_SHARDS:-}"    # restore_array.sh: tasks that share the input; keep it to the end
SHARD_ID="${SHARD_ID:-}"        # the one of them, from 0, that this job does
SPEECH_URLS="${SPEECH_URLS:-}"  # preprocess*.sh: tar files of clean speech, folders, patterns
TEST_URLS="${TEST_URLS:-}"      # of them, what is held back
DATA="${DATA:-}"                # data configuration; preprocess*.sh: webdataset_preprocess_48k
WRITER_NAME="${WRITER_NAME:-}"  # preprocess*.sh: folder in OUTPUT_DIR that the shards go to
NUM_WRITERS="${NUM_WRITERS:-}"  # preprocess*.sh: processes a node that make them; empty: a core each
EXTRA="${EXTRA:-}"              # more overrides, or options of src/inference.py
HF_HOME="${HF_HOME:-$HOME/.cache/huggingface}"  # base encoders, fetched beforehand
WANDB_API_KEY_FILE="${WANDB_API_KEY_FILE:-}"    # files that hold a key: never on a command line
HF_TOKEN_FILE="${HF_TOKEN_FILE:-}"
# MASTER_ADDR and MASTER_PORT: where the processes meet, if not on the first host at the job's port.
NAMES=(IMAGE BIND SPEECH_DIRS NOISE_DIRS RIR_DIRS TEST_DIRS OUTPUT_DIR MODEL STAGE1_DIR STAGE2_DIR
  INIT_FROM BATCH_SIZE NPROC MAX_RESTARTS CKPT_DIR INPUT_DIR NUM_SHARDS SHARD_ID SPEECH_URLS
  TEST_URLS DATA WRITER_NAME NUM_WRITERS EXTRA HF_HOME WANDB_API_KEY_FILE HF_TOKEN_FILE)
# ---------------------------------------------------------------------------------------------------

stop_here() {
  echo "error: $1" >&2
  exit 2
}

need() { # NAME…: variables that have no default
  local name
  for name; do
    [[ -n ${!name} ]] || stop_here "set $name (see jobs/common.sh)"
  done
}

# --- What is run: each sets COMMAND, and REQUEUE, the file that asks for a requeue. ---------------

as_list() { # FOLDERS: [a,b] of "a b"
  local folders
  read -ra folders <<<"$1"
  local IFS=,
  echo "[${folders[*]}]"
}

train() { # MODEL OVERRIDE…: the same command starts a run, restarts it and resumes it
  local extra
  MODEL=${MODEL:-$1}
  shift
  need OUTPUT_DIR SPEECH_DIRS
  read -ra extra <<<"$EXTRA"
  COMMAND=(src/train.py "model=$MODEL" "data.train.dir_list=$(as_list "$SPEECH_DIRS")"
    "data.train.noise_dir_list=$(as_list "$NOISE_DIRS")"
    "data.train.rir_dir_list=$(as_list "$RIR_DIRS")" "data.test.dir_list=$(as_list "$TEST_DIRS")"
    ${BATCH_SIZE:+"trainer.batch_size=$BATCH_SIZE"} "trainer.output_dir=$OUTPUT_DIR"
    trainer.ckpt_dir=auto "$@" "${extra[@]}")
  REQUEUE=$OUTPUT_DIR/REQUEUE
}

resume() { # go on with what OUTPUT_DIR's newest checkpoint says, but for EXTRA
  local extra
  need OUTPUT_DIR
  read -ra extra <<<"$EXTRA"
  COMMAND=(src/train.py "trainer.ckpt_dir=$OUTPUT_DIR" "${extra[@]}")
  REQUEUE=$OUTPUT_DIR/REQUEUE
}

restore() { # restore INPUT_DIR, or the shard SHARD_ID of it
  local extra shard=() ledger
  need INPUT_DIR OUTPUT_DIR CKPT_DIR
  read -ra extra <<<"$EXTRA"
  ledger=$OUTPUT_DIR/.ledger
  if [[ -n $SHARD_ID ]]; then
    need NUM_SHARDS
    shard=(--num-shards "$NUM_SHARDS" --shard-id "$SHARD_ID")
    ledger=$ledger/$(printf 'shard-%05d-of-%05d' "$SHARD_ID" "$NUM_SHARDS")
  fi
  COMMAND=(src/inference.py --ckpt-dir "$CKPT_DIR" --input-audio-dir "$INPUT_DIR"
    --output-dir "$OUTPUT_DIR" "${shard[@]}" "${extra[@]}")
  REQUEUE=$ledger/REQUEUE
  MAX_RESTARTS=0 # files that fail end with status 1: trying again at once helps nobody
}

as_quoted_list() { # URLS: ["a","b"] of "a b", so that patterns stay what they are
  local urls
  read -ra urls <<<"$1"
  urls=("${urls[@]/#/\"}")
  urls=("${urls[@]/%/\"}")
  local IFS=,
  echo "[${urls[*]}]"
}

preprocess() { # make shards of degraded pairs in OUTPUT_DIR/WRITER_NAME, or the part SHARD_ID of them
  local extra shard=() job=0 word
  need OUTPUT_DIR WRITER_NAME
  [[ -n $SPEECH_DIRS$SPEECH_URLS$TEST_DIRS$TEST_URLS ]] || need SPEECH_DIRS
  read -ra extra <<<"$EXTRA"
  for word in "${extra[@]}"; do
    [[ $word != preprocess.job_id=* ]] || job=${word#*=}
  done
  REQUEUE=$OUTPUT_DIR/$WRITER_NAME/.jobs/$job
  if [[ -n $SHARD_ID ]]; then
    need NUM_SHARDS
    shard=("preprocess.num_shards=$NUM_SHARDS" "preprocess.shard_id=$SHARD_ID")
    REQUEUE=$REQUEUE/$(printf 'shard-%05d-of-%05d' "$SHARD_ID" "$NUM_SHARDS")
  fi
  REQUEUE=$REQUEUE/REQUEUE
  COMMAND=(src/preprocess.py "data=${DATA:-webdataset_preprocess_48k}"
    "preprocess.output_root=$OUTPUT_DIR" "preprocess.writer_name=$WRITER_NAME"
    "preprocess.num_writers=${NUM_WRITERS:-$(nproc)}"
    "data.train.dir_list=$(as_list "$SPEECH_DIRS")"
    "data.train.urls=$(as_quoted_list "$SPEECH_URLS")"
    "data.train.noise_dir_list=$(as_list "$NOISE_DIRS")"
    "data.train.rir_dir_list=$(as_list "$RIR_DIRS")" "data.test.dir_list=$(as_list "$TEST_DIRS")"
    "data.test.urls=$(as_quoted_list "$TEST_URLS")" "${shard[@]}" "${extra[@]}")
  [[ $NPROC != gpu ]] || NPROC=1 # no GPU is used: one launcher's writers take all cores
  MAX_RESTARTS=0 # damaged inputs end with status 1: trying again at once helps nobody
}

make_index() { # index every folder that is named
  local folder
  [[ -n $SPEECH_DIRS$NOISE_DIRS$RIR_DIRS$TEST_DIRS ]] || need SPEECH_DIRS
  for folder in $SPEECH_DIRS $NOISE_DIRS $RIR_DIRS $TEST_DIRS; do
    COMMAND=(python dataset/script/make_metadata_csv.py --root-dir "$folder")
    into_image
    "${COMMAND[@]}"
  done
}

# --- Where it runs. -------------------------------------------------------------------------------

read_secret() { # NAME: from the file that NAME_FILE names, if it does
  local file=${1}_FILE
  [[ -n ${!file} ]] || return 0
  [[ -r ${!file} ]] || stop_here "$file=${!file} cannot be read"
  export "$1=$(<"${!file}")"
}

prepare() { # secrets, caches and Python
  read_secret WANDB_API_KEY
  read_secret HF_TOKEN
  export HF_HOME
  if [[ -z $IMAGE && -z ${VIRTUAL_ENV:-} && -r .venv/bin/activate ]]; then
    # shellcheck source=/dev/null
    source .venv/bin/activate
  fi
  [[ -n $IMAGE ]] || command -v torchrun >/dev/null ||
    stop_here "there is no torchrun here: set IMAGE, or activate the Python environment"
}

into_image() { # put singularity before COMMAND; it sees this folder and every one that is named
  [[ -n $IMAGE ]] || return 0
  local folder urls wrapper binds=(--bind "$PWD")
  read -ra wrapper <<<"${CONTAINER_RUN:-}"
  for folder in $BIND $SPEECH_DIRS $NOISE_DIRS $RIR_DIRS $TEST_DIRS $STAGE1_DIR $STAGE2_DIR \
    $INIT_FROM $CKPT_DIR $INPUT_DIR $OUTPUT_DIR $HF_HOME; do
    [[ ! -e $folder ]] || binds+=(--bind "$(realpath -s "$folder")")
  done
  read -ra urls <<<"$SPEECH_URLS $TEST_URLS"
  for folder in "${urls[@]}"; do
    folder=${folder%%[*?[{]*} # before a pattern
    [[ -d $folder ]] || folder=$(dirname "$folder")
    [[ ! -e $folder ]] || binds+=(--bind "$(realpath -s "$folder")")
  done
  COMMAND=("${wrapper[@]}" singularity exec --nv "${binds[@]}" --pwd "$PWD" "$IMAGE"
    "${COMMAND[@]}")
}

job_port() { # JOB_ID: below the ports that systems hand out, another one for neighbouring jobs
  local digits=${1%%.*}
  echo "${MASTER_PORT:-$((10000 + 10#0${digits//[!0-9]/} % 20000))}"
}

launch_on() { # JOB_ID HOST…: put torchrun before COMMAND, one on each host
  local id=$1 meet=(--standalone)
  shift
  if (($# > 1)) || [[ -n ${MASTER_ADDR:-}${MASTER_PORT:-} ]]; then # torchrun itself reads neither
    meet=(--nnodes "$#" --rdzv_id "$id" --rdzv_backend c10d
      --rdzv_endpoint "${MASTER_ADDR:-$1}:$(job_port "$id")")
    # Shared, the store of the first round would be kept, and a node that joins later not find it.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  fi
  mkdir -p "$OUTPUT_DIR"
  export JOB_MARK=$id
  # Ignored, and so inherited, SIGUSR2 does nothing to a worker that is not yet ready for it.
  # shellcheck disable=SC2016  # "$@" is for the inner bash
  COMMAND=(bash -c 'trap "" USR2; exec "$@"' launch torchrun "${meet[@]}"
    --nproc_per_node "$NPROC" --max-restarts "$MAX_RESTARTS" "${COMMAND[@]}")
  into_image
}

signal_workers() { # SIGUSR2 to this job's workers on this host: one of them is enough in training
  # To nothing else: torchrun would give its workers 30 s to save, and the image is a file system
  # whose server (squashfuse) a signal to all of the job's processes would end.
  local folder
  for folder in /proc/[0-9]*; do
    if grep -qzxF "JOB_MARK=$JOB_MARK" "$folder/environ" &&
      grep -qz '^TORCHELASTIC_RUN_ID=' "$folder/environ" &&
      grep -qzE '^src/(train|inference|preprocess)\.py$' "$folder/cmdline"; then
      kill -USR2 "${folder#/proc/}" || true
    fi
  done 2>/dev/null
}

supervise() { # PID: wait for the launcher; when the job shall stop, tell its workers
  stopping=${stopping:-}
  trap 'stopping=signal' TERM
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS < ${STOP_AFTER:-SECONDS + 1})) || stopping=walltime
    # Again and again, for the run may only just be starting; but not while it ends, all saved.
    [[ -z $stopping || -e $REQUEUE ]] || signal_workers
    sleep 5 &
    wait $! || true # a trap ends the wait
  done
  wait "$1"
}

on_this_machine() {
  prepare
  launch_on "$$" localhost
  "${COMMAND[@]}"
}

on_slurm() { # one launcher a node; requeued if the time limit's warning ended the run early
  local hosts status=0
  prepare
  export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
  mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  launch_on "$SLURM_JOB_ID" "${hosts[@]}"
  rm -f "$REQUEUE"
  srun --nodes "${#hosts[@]}" --ntasks "${#hosts[@]}" --ntasks-per-node 1 \
    --kill-on-bad-exit=1 "${COMMAND[@]}" &
  supervise $! || status=$?
  # RUNNING: not what its user cancelled.
  if [[ -e $REQUEUE && $(squeue --noheader --job "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$status"
}

seconds_of_job() { # how long a PBS job may run, less 5 minutes for saving
  local walltime
  walltime=$(qstat -f "$PBS_JOBID" | sed -n 's/^ *Resource_List.walltime = //p')
  [[ $walltime =~ ^([0-9]+):([0-9]+):([0-9]+)$ ]] ||
    stop_here "qstat names no walltime: set STOP_AFTER to the seconds after which the run saves"
  echo $((10#${BASH_REMATCH[1]} * 3600 + 10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]} - 300))
}

on_host() { # HOST: COMMAND there; the environment goes through the pipe, where no one sees it
  { export -p && printf 'cd %q && exec' "$PWD" && printf ' %q' "${COMMAND[@]}" && echo ' </dev/null'; } |
    ${REMOTE:-ssh} "$1" bash
}

on_pbs() { # SCRIPT: one launcher a node; submits SCRIPT again if the walltime ended the run early
  local hosts host status=0 names=() name
  prepare
  export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
  STOP_AFTER=${STOP_AFTER:-$(seconds_of_job)}
  mapfile -t hosts < <(uniq "$PBS_NODEFILE")
  launch_on "$PBS_JOBID" "${hosts[@]}"
  rm -f "$REQUEUE"
  for host in "${hosts[@]:1}"; do
    on_host "$host" &
  done
  "${COMMAND[@]}" &
  supervise $! || status=$?
  if [[ -e $REQUEUE && $stopping == walltime ]]; then # not what its user deleted
    for name in "${NAMES[@]}"; do
      [[ -z ${!name} ]] || { export "${name?}" && names+=("$name"); }
    done
    (IFS=, && qsub -v "${names[*]}" "$1")
  fi
  exit "$status"
}
