#!/usr/bin/env bash
#SBATCH --job-name=preprocess
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one launcher a node, whatever NPROC is
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300 # 5 minutes to stop; then the job is queued again
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Make shards of degraded pairs of SPEECH_DIRS and SPEECH_URLS in OUTPUT_DIR/WRITER_NAME.
# Variables: jobs/common.sh. From the repository's root: sbatch jobs/slurm/preprocess.sh
cd "${SLURM_SUBMIT_DIR:-.}" || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
preprocess
on_slurm
