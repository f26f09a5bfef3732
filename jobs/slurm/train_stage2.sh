#!/usr/bin/env bash
#SBATCH --job-name=train_stage2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to save; then the job is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Stage 2: the vocoder, on clean features.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/train_stage2.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage2}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_wavefit_pretrain
on_slurm
