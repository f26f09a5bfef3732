#!/usr/bin/env bash
#SBATCH --job-name=tokenize
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to save; then the job is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Turn INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into tokens of a codec in OUTPUT_DIR.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/tokenize.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
tokenize
on_slurm
