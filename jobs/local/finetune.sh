#!/usr/bin/env bash
# Fine-tune: start from the weights of INIT_FROM, with a new optimiser, on your speech.
# Variables: jobs/common.sh. From the repository's root: jobs/local/finetune.sh
cd "$(dirname "$0")/../.." || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/finetuned}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
need INIT_FROM
train miipher2_feature_cleaner "trainer.init_from=$(quoted "$INIT_FROM")"
on_this_machine
