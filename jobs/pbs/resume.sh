#!/usr/bin/env bash
#PBS -N resume
#PBS -l select=1:ncpus=64:ngpus=8
#PBS -l walltime=24:00:00
#PBS -j oe
# Resume the run in OUTPUT_DIR; EXTRA="trainer.max_steps=900000" changes a setting.
# Variables: jobs/common.sh. From the repository's root: qsub jobs/pbs/resume.sh
cd "${PBS_O_WORKDIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
resume
on_pbs jobs/pbs/resume.sh
