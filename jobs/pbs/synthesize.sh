#!/usr/bin/env bash
#PBS -N synthesize
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Speak TEXTS into OUTPUT_DIR: sound, and the tokens of a codec.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/synthesize.sh
cd "${PBS_O_WORKDIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
synthesize
on_pbs jobs/pbs/synthesize.sh
