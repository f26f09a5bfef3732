#!/usr/bin/env bash
#PBS -N preprocess_array
#PBS -J 0-63
#PBS -l select=1:ncpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Make shards of degraded pairs of SPEECH_DIRS and SPEECH_URLS in OUTPUT_DIR/WRITER_NAME,
# each task takes a share of the inputs.
# Array tasks: -J 0 to NUM_SHARDS - 1. A task that the walltime ends early submits itself again.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/preprocess_array.sh
cd "${PBS_O_WORKDIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=${PBS_ARRAY_INDEX:-$PBS_ARRAYID} # PBS Professional's name, Torque's
preprocess
on_pbs jobs/pbs/preprocess.sh # with SHARD_ID set, it continues this task only
