#!/usr/bin/env bash
# Restore INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into OUTPUT_DIR with the chain in CKPT_DIR.
# Variables: jobs/common.sh. From the repository's root: jobs/local/restore.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
restore
on_this_machine
