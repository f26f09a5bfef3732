#!/usr/bin/env bash
#PBS -N synthesize_array
#PBS -J 0-63
#PBS -l select=1:ncpus=8:ngpus=1
#PBS -l walltime=24:00:00
#PBS -j oe
# Speak TEXTS into OUTPUT_DIR: sound, and the tokens of a codec; the
# tasks share the texts.
# Array tasks: -J 0 to NUM_SHARDS - 1. A task that the walltime ends early submits itself again.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/synthesize_array.sh
cd "${PBS_O_WORKDIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=${PBS_ARRAY_INDEX:-$PBS_ARRAYID} # PBS Professional's name, Torque's
synthesize
on_pbs jobs/pbs/synthesize.sh # with SHARD_ID set, it continues this task only
