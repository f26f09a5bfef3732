#!/usr/bin/env bash
#PBS -N make_index
#PBS -l select=1:ncpus=16
#PBS -l walltime=04:00:00
#PBS -j oe
# Index SPEECH_DIRS, NOISE_DIRS, RIR_DIRS and TEST_DIRS: once, before training.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/make_index.sh
cd "${PBS_O_WORKDIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
prepare
make_index
