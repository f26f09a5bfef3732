#!/usr/bin/env bash
# Turn INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into tokens of a codec in OUTPUT_DIR,
# as array tasks on this machine: all NUM_SHARDS in turn, or only SHARDS="3 5".
# Variables: jobs/common.sh. From the repository's root: jobs/local/tokenize_array.sh
cd "$(dirname "$0")/../.." || exit
NUM_SHARDS="${NUM_SHARDS:-4}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
status=0
for SHARD_ID in ${SHARDS:-$(seq 0 $((NUM_SHARDS - 1)))}; do
  tokenize
  on_this_machine || status=$? # continue with the other tasks
done
exit "$status"
