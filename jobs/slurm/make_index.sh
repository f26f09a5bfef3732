#!/usr/bin/env bash
#SBATCH --job-name=make_index
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
# Index SPEECH_DIRS, NOISE_DIRS, RIR_DIRS and TEST_DIRS: once, before training.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/make_index.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
prepare
make_index
