#!/usr/bin/env bash
#PBS -N preprocess
#PBS -l select=1:ncpus=64
#PBS -l walltime=24:00:00
#PBS -j oe
# Make shards of degraded pairs of SPEECH_DIRS and SPEECH_URLS in OUTPUT_DIR/WRITER_NAME.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/preprocess.sh
cd "${PBS_O_WORKDIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
preprocess
on_pbs jobs/pbs/preprocess.sh
