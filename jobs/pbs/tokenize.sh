#!/usr/bin/env bash
#PBS -N tokenize
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Turn INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into tokens of a codec in OUTPUT_DIR.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/tokenize.sh
cd "${PBS_O_WORKDIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
tokenize
on_pbs jobs/pbs/tokenize.sh
