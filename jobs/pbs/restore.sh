#!/usr/bin/env bash
#PBS -N restore
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Restore INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into OUTPUT_DIR with the chain in CKPT_DIR.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/restore.sh
cd "${PBS_O_WORKDIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
restore
on_pbs jobs/pbs/restore.sh
