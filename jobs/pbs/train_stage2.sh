#!/usr/bin/env bash
#PBS -N train_stage2
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Stage 2: the vocoder, on clean features.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/train_stage2.sh
cd "${PBS_O_WORKDIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage2}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_wavefit_pretrain
on_pbs jobs/pbs/train_stage2.sh
