#!/usr/bin/env bash
#PBS -N train_stage3
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Stage 3: train the vocoder of STAGE2_DIR on the features that the cleaner of STAGE1_DIR makes.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/train_stage3.sh
cd "${PBS_O_WORKDIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage3}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_wavefit_finetune "model.cleaner_ckpt_dir=$(quoted "$STAGE1_DIR")" \
  "model.vocoder_ckpt_dir=$(quoted "$STAGE2_DIR")"
on_pbs jobs/pbs/train_stage3.sh
