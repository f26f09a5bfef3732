#!/usr/bin/env bash
#SBATCH --job-name=train_stage3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to save; then the job is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Stage 3: train the vocoder of STAGE2_DIR on the features that the cleaner of STAGE1_DIR makes.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/train_stage3.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage3}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_wavefit_finetune "model.cleaner_ckpt_dir=$(quoted "$STAGE1_DIR")" \
  "model.vocoder_ckpt_dir=$(quoted "$STAGE2_DIR")"
on_slurm
