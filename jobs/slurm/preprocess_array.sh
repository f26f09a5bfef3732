#!/usr/bin/env bash
#SBATCH --job-name=preprocess_array
#SBATCH --array=0-63 # 0 to NUM_SHARDS - 1, or only the tasks to run again
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to stop; then the task is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
# Make shards of degraded pairs of SPEECH_DIRS and SPEECH_URLS in OUTPUT_DIR/WRITER_NAME,
# each task takes a share of the inputs.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/preprocess_array.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=$SLURM_ARRAY_TASK_ID
preprocess
on_slurm
