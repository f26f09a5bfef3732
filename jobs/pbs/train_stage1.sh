#!/usr/bin/env bash
#PBS -N train_stage1
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Stage 1: the feature cleaner.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/train_stage1.sh
cd "${PBS_O_WORKDIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage1}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_feature_cleaner
on_pbs jobs/pbs/train_stage1.sh
