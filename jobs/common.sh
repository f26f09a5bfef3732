# shellcheck shell=bash disable=SC2034  # the scripts that source this use what it sets
# Variables and functions of the job scripts. They are submitted from the repository's root and
# source this file from there: batch systems run a copy of a script in another folder.
set -euo pipefail

# --- Variables: set them in the environment, or change them here. Spaces separate folders. --------
IMAGE="${IMAGE:-}"              # Open-Miipher-2.sif; empty: the active Python environment, or .venv
BIND="${BIND:-}"                # further folders that the image needs, besides those named below
SPEECH_DIRS="${SPEECH_DIRS:-}"  # indexed clean speech (make_index.sh)
NOISE_DIRS="${NOISE_DIRS:-}"    # indexed noise; empty: generated
RIR_DIRS="${RIR_DIRS:-}"        # indexed impulse responses; empty: generated
TEST_DIRS="${TEST_DIRS:-}"      # indexed speech for validation; empty: no validation
OUTPUT_DIR="${OUTPUT_DIR:-}"    # where the run writes; most scripts have a default
MODEL="${MODEL:-}"              # model configuration; each training script has a default
STAGE1_DIR="${STAGE1_DIR:-output/stage1}"  # for stage 3
STAGE2_DIR="${STAGE2_DIR:-output/stage2}"
INIT_FROM="${INIT_FROM:-}"      # finetune.sh: run or checkpoint that training starts from
BATCH_SIZE="${BATCH_SIZE:-}"    # samples a step, over all processes; empty: the model's own
NPROC="${NPROC:-gpu}"           # processes a node; gpu: one for each GPU, or one on the CPU
MAX_RESTARTS="${MAX_RESTARTS:-3}"  # how often training restarts by itself after a process died
CKPT_DIR="${CKPT_DIR:-output/stage3}"  # restore*.sh: the chain
INPUT_DIR="${INPUT_DIR:-}"      # restore*.sh: what to restore: a folder,
INPUT_SHARDS="${INPUT_SHARDS:-}"      # or tar shards: folders, patterns, s3:// (options in EXTRA),
INPUT_MANIFEST="${INPUT_MANIFEST:-}"  # or a manifest in JSON lines
NUM_SHARDS="${NUM_SHARDS:-}"    # *_array.sh: number of array tasks; keep it until all are done
SHARD_ID="${SHARD_ID:-}"        # which of them, from 0, this job is
SPEECH_URLS="${SPEECH_URLS:-}"  # preprocess*.sh: tar files of clean speech, folders, patterns
TEST_URLS="${TEST_URLS:-}"      # preprocess*.sh: the same, for validation
DATA="${DATA:-}"                # data configuration; preprocess*.sh: webdataset_preprocess_48k
WRITER_NAME="${WRITER_NAME:-}"  # preprocess*.sh: the folder in OUTPUT_DIR for the shards
NUM_WRITERS="${NUM_WRITERS:-}"  # preprocess*.sh: processes a node that make them; empty: one a core
TEXTS="${TEXTS:-}"              # synthesize*.sh: a hub id, or a jsonl, csv, parquet or txt file
EXTRA="${EXTRA:-}"              # more overrides, or options of src/{inference,tokenize_audio}.py
HF_HOME="${HF_HOME:-${HOME:-$PWD}/.cache/huggingface}"  # base encoders, fetched beforehand
WANDB_API_KEY_FILE="${WANDB_API_KEY_FILE:-}"    # files with the keys: never on a command line
HF_TOKEN_FILE="${HF_TOKEN_FILE:-}"
# MASTER_ADDR and MASTER_PORT: where the processes meet; default: the first host, the job's port.
NAMES=(IMAGE BIND SPEECH_DIRS NOISE_DIRS RIR_DIRS TEST_DIRS OUTPUT_DIR MODEL STAGE1_DIR STAGE2_DIR
  INIT_FROM BATCH_SIZE NPROC MAX_RESTARTS CKPT_DIR INPUT_DIR INPUT_SHARDS INPUT_MANIFEST NUM_SHARDS SHARD_ID SPEECH_URLS
  TEST_URLS DATA WRITER_NAME NUM_WRITERS TEXTS EXTRA HF_HOME WANDB_API_KEY_FILE HF_TOKEN_FILE)
# ---------------------------------------------------------------------------------------------------

stop_here() {
  echo "error: $1" >&2
  exit 2
}

need() { # NAME…: stop if one of these variables is empty
  local name
  for name; do
    [[ -n ${!name} ]] || stop_here "set $name (see jobs/common.sh)"
  done
}

# --- What to run: each sets COMMAND, and REQUEUE, the file that asks to queue the job again. ------
OUTPUTS=() # of a corpus run: the folders that src/status.py knows

quoted() { # WORD: "WORD", which Hydra takes as it is; a plain path needs no quotes
  [[ ! $1 =~ ^[A-Za-z0-9_.-]*/[A-Za-z0-9_./-]+$ ]] || { echo "$1" && return; }
  echo "\"${1//\"/\\\"}\""
}

as_list() { # WORDS: ["a","b"] of "a b"
  local words word items=()
  read -ra words <<<"$1"
  for word in "${words[@]}"; do
    items+=("$(quoted "$word")")
  done
  local IFS=,
  echo "[${items[*]}]"
}

train() { # MODEL OVERRIDE…: the same command starts, restarts and resumes a run
  local extra
  MODEL=${MODEL:-$1}
  shift
  need OUTPUT_DIR SPEECH_DIRS
  read -ra extra <<<"$EXTRA"
  COMMAND=(src/train.py "model=$MODEL" "data.train.dir_list=$(as_list "$SPEECH_DIRS")"
    "data.train.noise_dir_list=$(as_list "$NOISE_DIRS")"
    "data.train.rir_dir_list=$(as_list "$RIR_DIRS")" "data.test.dir_list=$(as_list "$TEST_DIRS")"
    ${BATCH_SIZE:+"trainer.batch_size=$BATCH_SIZE"} "trainer.output_dir=$(quoted "$OUTPUT_DIR")"
    trainer.ckpt_dir=auto "$@" "${extra[@]}")
  REQUEUE=$OUTPUT_DIR/REQUEUE
}

resume() { # resume OUTPUT_DIR's newest checkpoint with its own settings, changed by EXTRA
  local extra
  need OUTPUT_DIR
  read -ra extra <<<"$EXTRA"
  COMMAND=(src/train.py "trainer.ckpt_dir=$(quoted "$OUTPUT_DIR")" "${extra[@]}")
  REQUEUE=$OUTPUT_DIR/REQUEUE
}

restore() { # restore the input, or the share of it that array task SHARD_ID has
  need OUTPUT_DIR CKPT_DIR
  of_input src/inference.py --ckpt-dir "$CKPT_DIR"
}

tokenize() { # turn the input into a codec's tokens, or the share that array task SHARD_ID has
  need OUTPUT_DIR
  of_input src/tokenize_audio.py
}

of_input() { # SCRIPT OPTION…: a corpus run over the input
  local extra urls shard=() ledger input=()
  [[ -n $INPUT_DIR$INPUT_SHARDS$INPUT_MANIFEST ]] || need INPUT_DIR
  [[ -z $INPUT_DIR ]] || input+=(--input-audio-dir "$INPUT_DIR")
  [[ -z $INPUT_MANIFEST ]] || input+=(--input-manifest "$INPUT_MANIFEST")
  read -ra urls <<<"$INPUT_SHARDS"
  [[ -z $INPUT_SHARDS ]] || input+=(--input-shards "${urls[@]}")
  read -ra extra <<<"$EXTRA"
  ledger=$OUTPUT_DIR/.ledger
  if [[ -n $SHARD_ID ]]; then
    need NUM_SHARDS
    shard=(--num-shards "$NUM_SHARDS" --shard-id "$SHARD_ID")
    ledger=$ledger/$(printf 'shard-%05d-of-%05d' "$SHARD_ID" "$NUM_SHARDS")
  fi
  COMMAND=("$@" "${input[@]}" --output-dir "$OUTPUT_DIR" "${shard[@]}" "${extra[@]}")
  REQUEUE=$ledger/REQUEUE
  OUTPUTS=("$OUTPUT_DIR")
  MAX_RESTARTS=0 # trying failed files again at once would not help
}

synthesize() { # speak TEXTS, or the share of them that array task SHARD_ID has
  local extra shard=() ledger=$OUTPUT_DIR/.ledger
  need OUTPUT_DIR TEXTS
  read -ra extra <<<"$EXTRA"
  if [[ -n $SHARD_ID ]]; then
    need NUM_SHARDS
    shard=("processing.num_shards=$NUM_SHARDS" "processing.shard_id=$SHARD_ID")
    ledger=$ledger/$(printf 'shard-%05d-of-%05d' "$SHARD_ID" "$NUM_SHARDS")
  fi
  COMMAND=(src/synthesize.py "dataset.name=$(quoted "$TEXTS")"
    "processing.save_dir=$(quoted "$OUTPUT_DIR")" "${shard[@]}" "${extra[@]}")
  REQUEUE=$ledger/REQUEUE
  OUTPUTS=("$OUTPUT_DIR")
  MAX_RESTARTS=0 # trying failed texts again at once would not help
}

preprocess() { # make shards of degraded pairs in OUTPUT_DIR/WRITER_NAME, or task SHARD_ID's share
  local extra shard=() job=0 word
  need OUTPUT_DIR WRITER_NAME
  [[ -n $SPEECH_DIRS$SPEECH_URLS$TEST_DIRS$TEST_URLS ]] || need SPEECH_DIRS
  read -ra extra <<<"$EXTRA"
  for word in "${extra[@]}"; do
    [[ $word != preprocess.job_id=* ]] || job=${word#*=}
  done
  REQUEUE=$OUTPUT_DIR/$WRITER_NAME/.jobs/$job
  OUTPUTS=("$OUTPUT_DIR/$WRITER_NAME/"{train,val}"/$job")
  if [[ -n $SHARD_ID ]]; then
    need NUM_SHARDS
    shard=("preprocess.num_shards=$NUM_SHARDS" "preprocess.shard_id=$SHARD_ID")
    REQUEUE=$REQUEUE/$(printf 'shard-%05d-of-%05d' "$SHARD_ID" "$NUM_SHARDS")
  fi
  REQUEUE=$REQUEUE/REQUEUE
  COMMAND=(src/preprocess.py "data=${DATA:-webdataset_preprocess_48k}"
    "preprocess.output_root=$(quoted "$OUTPUT_DIR")"
    "preprocess.writer_name=$(quoted "$WRITER_NAME")"
    "preprocess.num_writers=${NUM_WRITERS:-$(nproc)}"
    "data.train.dir_list=$(as_list "$SPEECH_DIRS")"
    "data.train.urls=$(as_list "$SPEECH_URLS")"
    "data.train.noise_dir_list=$(as_list "$NOISE_DIRS")"
    "data.train.rir_dir_list=$(as_list "$RIR_DIRS")" "data.test.dir_list=$(as_list "$TEST_DIRS")"
    "data.test.urls=$(as_list "$TEST_URLS")" "${shard[@]}" "${extra[@]}")
  [[ $NPROC != gpu ]] || NPROC=1 # no GPU is used: the writers of one process take all cores
  MAX_RESTARTS=0 # trying damaged inputs again at once would not help
}

make_index() { # index every folder that is named in the variables
  local folder
  [[ -n $SPEECH_DIRS$NOISE_DIRS$RIR_DIRS$TEST_DIRS ]] || need SPEECH_DIRS
  for folder in $SPEECH_DIRS $NOISE_DIRS $RIR_DIRS $TEST_DIRS; do
    COMMAND=(python dataset/script/make_metadata_csv.py --root-dir "$folder")
    into_image
    "${COMMAND[@]}"
  done
}

# --- Where to run it. -----------------------------------------------------------------------------

read_secret() { # NAME: read it from the file that NAME_FILE names, if that is set
  local file=${1}_FILE
  [[ -n ${!file} ]] || return 0
  [[ -r ${!file} ]] || stop_here "$file=${!file} cannot be read"
  export "$1=$(<"${!file}")"
}

made_of() { # FOLDER WORDS…: stop if the folder was begun with other words; note these
  local folder=$1 words
  shift
  words=$*
  [[ ! -e $folder/made_of || $(<"$folder/made_of") == "$words" ]] ||
    stop_here "$folder was begun with other arguments or variables ($folder/made_of): choose another OUTPUT_DIR"
  mkdir -p "$folder"
  echo "$words" >"$folder/made_of"
}

prepare() { # set up secrets, caches and Python
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

into_image() { # put singularity before COMMAND; bind this folder and all named folders
  [[ -n $IMAGE ]] || return 0
  local folder urls wrapper binds=(--bind "$PWD")
  read -ra wrapper <<<"${CONTAINER_RUN:-}"
  for folder in $BIND $SPEECH_DIRS $NOISE_DIRS $RIR_DIRS $TEST_DIRS "$STAGE1_DIR" "$STAGE2_DIR" \
    "$INIT_FROM" "$CKPT_DIR" "$INPUT_DIR" "$INPUT_MANIFEST" "$TEXTS" "$OUTPUT_DIR" "$HF_HOME"; do
    [[ ! -e $folder ]] || binds+=(--bind "$(realpath -s "$folder")")
  done
  read -ra urls <<<"$SPEECH_URLS $TEST_URLS $INPUT_SHARDS"
  for folder in "${urls[@]}"; do
    folder=${folder%%[*?[{]*} # the part before a pattern
    [[ -d $folder ]] || folder=$(dirname "$folder")
    [[ ! -e $folder ]] || binds+=(--bind "$(realpath -s "$folder")")
  done
  COMMAND=("${wrapper[@]}" singularity exec --nv "${binds[@]}" --pwd "$PWD" "$IMAGE"
    "${COMMAND[@]}")
}

job_port() { # JOB_ID: a port below those that systems assign; successive jobs get different ones
  local digits=${1%%.*}
  echo "${MASTER_PORT:-$((10000 + 10#0${digits//[!0-9]/} % 20000))}"
}

has_gpu() { # whether processes that start here can use one
  [[ ! ${CUDA_VISIBLE_DEVICES-all} =~ ^(-1|NoDevFiles)?$ ]] || return 1
  [[ $(nvidia-smi -L 2>/dev/null) == GPU* ]] || compgen -G '/dev/nvidia[0-9]*' >/dev/null
}

launch_on() { # JOB_ID HOST…: put torchrun before COMMAND; one torchrun runs on each host
  local id=$1 meet=(--standalone)
  shift
  if (($# > 1)) || [[ -n ${MASTER_ADDR:-}${MASTER_PORT:-} ]]; then # torchrun reads neither of them
    meet=(--nnodes "$#" --rdzv_id "$id" --rdzv_backend c10d
      --rdzv_endpoint "${MASTER_ADDR:-$1}:$(job_port "$id")")
    # A shared store would stay the one of the first round, and a node that joins later would not
    # find it.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    ulimit -n "$(ulimit -Hn)" # the launcher whose store all ranks ask holds a connection to each
  fi
  mkdir -p "$OUTPUT_DIR"
  if [[ $NPROC == gpu ]] && ! has_gpu; then
    echo "there is no GPU here: one process on the CPU (NPROC=1)"
    NPROC=1
  fi
  export JOB_MARK=$id
  # Workers inherit that SIGUSR2 is ignored, so it does not kill one that has no handler yet.
  # shellcheck disable=SC2016  # "$@" is for the inner bash
  COMMAND=(bash -c 'trap "" USR2; exec "$@"' launch torchrun "${meet[@]}"
    --nproc_per_node "$NPROC" --max-restarts "$MAX_RESTARTS" "${COMMAND[@]}")
  into_image
}

outcome() { # STATUS of torchrun, which makes 1 of all but 0: return a corpus run's own
  local folder own status=0
  ((${#OUTPUTS[@]} > 0 && $1 != 0)) || return "$1"
  for folder in "${OUTPUTS[@]}"; do
    [[ -e $folder/.ledger ]] || continue
    own=0
    COMMAND=(python src/status.py "$folder" --exit-status ${SHARD_ID:+--shard-id "$SHARD_ID"})
    into_image
    "${COMMAND[@]}" || own=$?
    ((own <= status)) || status=$own
  done
  return $((status > 0 ? status : 2)) # what is done and yet fails was refused before it began
}

signal_workers() { # send SIGUSR2 to this job's workers on this host; in training, one is enough
  # To no other process: torchrun would give its workers only 30 s to save, and squashfuse, which
  # serves the image's file system, would end.
  local folder
  for folder in /proc/[0-9]*; do
    if grep -qzxF "JOB_MARK=$JOB_MARK" "$folder/environ" &&
      grep -qz '^TORCHELASTIC_RUN_ID=' "$folder/environ" &&
      grep -qzE '^src/(train|inference|preprocess|synthesize|tokenize_audio)\.py$' "$folder/cmdline"; then
      kill -USR2 "${folder#/proc/}" || true
    fi
  done 2>/dev/null
}

supervise() { # PID: wait for the launcher; when the job has to stop, signal its workers
  stopping=${stopping:-}
  trap 'stopping=signal' TERM
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS < ${STOP_AFTER:-SECONDS + 1})) || stopping=walltime
    # Repeated, because the run may still be starting; but not after everything is saved.
    [[ -z $stopping || -e $REQUEUE ]] || signal_workers
    sleep 5 &
    wait $! || true # a trap ends the wait
  done
  wait "$1"
}

on_this_machine() {
  local status=0
  prepare
  launch_on "$$" localhost
  "${COMMAND[@]}" || status=$?
  outcome "$status"
}

on_slurm() { # one launcher a node; requeue the job if the time limit ended the run early
  local hosts status=0
  prepare
  export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
  mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  launch_on "$SLURM_JOB_ID" "${hosts[@]}"
  rm -f "$REQUEUE"
  srun --nodes "${#hosts[@]}" --ntasks "${#hosts[@]}" --ntasks-per-node 1 \
    --kill-on-bad-exit=1 "${COMMAND[@]}" &
  supervise $! || status=$?
  # RUNNING: a job that its user cancelled has another state.
  if [[ -e $REQUEUE && $(squeue --noheader --job "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  outcome "$status"
  exit
}

seconds_of_job() { # the walltime of the PBS job in seconds, minus 5 minutes for saving
  local walltime
  walltime=$(qstat -f "$PBS_JOBID" | sed -n 's/^ *Resource_List.walltime = //p')
  [[ $walltime =~ ^([0-9]+):([0-9]+):([0-9]+)$ ]] ||
    stop_here "qstat names no walltime: set STOP_AFTER to the seconds after which the run saves"
  echo $((10#${BASH_REMATCH[1]} * 3600 + 10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]} - 300))
}

on_host() { # HOST: run COMMAND there; a pipe carries the environment, so nobody can read it
  { export -p && printf 'cd %q && exec' "$PWD" && printf ' %q' "${COMMAND[@]}" && echo ' </dev/null'; } |
    ${REMOTE:-ssh} "$1" bash
}

on_pbs() { # SCRIPT: one launcher a node; submit SCRIPT again if the walltime ended the run early
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
  if [[ -e $REQUEUE && $stopping == walltime ]]; then # not after the user's qdel
    for name in "${NAMES[@]}"; do
      [[ -z ${!name} ]] || { export "${name?}" && names+=("$name"); }
    done
    (IFS=, && qsub -v "${names[*]}" "$1")
  fi
  outcome "$status"
  exit
}
