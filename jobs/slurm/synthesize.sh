#!/usr/bin/env bash
#SBATCH --job-name=synthesize
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to save; then the job is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Speak TEXTS into OUTPUT_DIR: sound, and the tokens of a codec.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/synthesize.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
synthesize
on_slurm
