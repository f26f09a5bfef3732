#!/usr/bin/env bash
#PBS -N finetune
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Fine-tune: start from the weights of INIT_FROM, with a new optimiser, on your speech.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/finetune.sh
cd "${PBS_O_WORKDIR:-.}" || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/finetuned}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
need INIT_FROM
train miipher2_feature_cleaner "trainer.init_from=$(quoted "$INIT_FROM")"
on_pbs jobs/pbs/finetune.sh
