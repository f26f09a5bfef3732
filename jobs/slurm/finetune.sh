#!/usr/bin/env bash
#SBATCH --job-name=finetune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to save; then the job is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Fine-tune: start from the weights of INIT_FROM, with a new optimiser, on your speech.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/finetune.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/finetuned}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
need INIT_FROM
train miipher2_feature_cleaner "trainer.init_from=$(quoted "$INIT_FROM")"
on_slurm
