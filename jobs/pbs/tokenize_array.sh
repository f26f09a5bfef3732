#!/usr/bin/env bash
#PBS -N tokenize_array
#PBS -J 0-63
#PBS -l select=1:ncpus=8:ngpus=1
#PBS -l walltime=24:00:00
#PBS -j oe
# Turn INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into tokens of a codec in OUTPUT_DIR; the
# tasks share the files.
# Array tasks: -J 0 to NUM_SHARDS - 1. A task that the walltime ends early submits itself again.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/tokenize_array.sh
cd "${PBS_O_WORKDIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=${PBS_ARRAY_INDEX:-$PBS_ARRAYID} # PBS Professional's name, Torque's
tokenize
on_pbs jobs/pbs/tokenize.sh # with SHARD_ID set, it continues this task only
