#!/usr/bin/env bash
# Stage 2: the vocoder, on clean features.
# Variables: jobs/common.sh. From the repository's root: jobs/local/train_stage2.sh
cd "$(dirname "$0")/../.." || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage2}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_wavefit_pretrain
on_this_machine
