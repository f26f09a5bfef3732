#!/usr/bin/env bash
# Stage 1: the feature cleaner.
# Variables: jobs/common.sh. From the repository's root: jobs/local/train_stage1.sh
cd "$(dirname "$0")/../.." || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage1}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_feature_cleaner
on_this_machine
