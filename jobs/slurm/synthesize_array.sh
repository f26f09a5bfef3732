#!/usr/bin/env bash
#SBATCH --job-name=synthesize_array
#SBATCH --array=0-63 # 0 to NUM_SHARDS - 1, or only the tasks to run again
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to finish the work in progress; then the task is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
# Speak TEXTS into OUTPUT_DIR: sound, and the tokens of a codec; the
# tasks share the texts.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/synthesize_array.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=$SLURM_ARRAY_TASK_ID
synthesize
on_slurm
