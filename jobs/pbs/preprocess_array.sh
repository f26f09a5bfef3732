#!/usr/bin/env bash
#PBS -N preprocess_array
#PBS -J 0-63
#PBS -l select=1:ncpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Make shards of degraded pairs of SPEECH_DIRS and SPEECH_URLS in OUTPUT_DIR/WRITER_NAME,
# each task a part of the inputs.
# One task a shard: -J 0 to NUM_SHARDS - 1. A task that ends early is submitted again by itself.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/preprocess_array.sh
cd "${PBS_O_WORKDIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=${PBS_ARRAY_INDEX:-$PBS_ARRAYID} # PBS Professional's name, Torque's
preprocess
on_pbs jobs/pbs/preprocess.sh # which, given SHARD_ID, goes on with this task alone
