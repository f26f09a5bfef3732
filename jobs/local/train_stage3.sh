#!/usr/bin/env bash
# Stage 3: train the vocoder of STAGE2_DIR on the features that the cleaner of STAGE1_DIR makes.
# Variables: jobs/common.sh. From the repository's root: jobs/local/train_stage3.sh
cd "$(dirname "$0")/../.." || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/stage3}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
train miipher2_wavefit_finetune "model.cleaner_ckpt_dir=$(quoted "$STAGE1_DIR")" \
  "model.vocoder_ckpt_dir=$(quoted "$STAGE2_DIR")"
on_this_machine
