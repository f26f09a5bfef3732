#!/usr/bin/env bash
# Go on with the run in OUTPUT_DIR; EXTRA="trainer.max_steps=900000" changes what it was told.
# Variables: jobs/common.sh. From the repository's root: jobs/local/resume.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
resume
on_this_machine
