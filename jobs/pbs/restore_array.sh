#!/usr/bin/env bash
#PBS -N restore_array
#PBS -J 0-63
#PBS -l select=1:ncpus=8:ngpus=1
#PBS -l walltime=24:00:00
#PBS -j oe
# Restore INPUT_DIR into OUTPUT_DIR with the chain in CKPT_DIR, each task a shard of the files.
# One task a shard: -J 0 to NUM_SHARDS - 1. A task that ends early is submitted again by itself.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/restore_array.sh
cd "${PBS_O_WORKDIR:-.}" || exit
NUM_SHARDS="${NUM_SHARDS:-64}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
SHARD_ID=${PBS_ARRAY_INDEX:-$PBS_ARRAYID} # PBS Professional's name, Torque's
restore
on_pbs jobs/pbs/restore.sh # which, given SHARD_ID, goes on with this task alone
