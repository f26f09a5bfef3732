#!/usr/bin/env bash
# Resume the run in OUTPUT_DIR; EXTRA="trainer.max_steps=900000" changes a setting.
# Variables: jobs/common.sh. From the repository's root: jobs/local/resume.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
resume
on_this_machine
