#!/usr/bin/env bash
# Restore INPUT_DIR by shards: all NUM_SHARDS in turn, or SHARDS="3 5" of them on this machine.
# Variables: jobs/common.sh. From the repository's root: jobs/local/restore_array.sh
cd "$(dirname "$0")/../.." || exit
NUM_SHARDS="${NUM_SHARDS:-4}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
status=0
for SHARD_ID in ${SHARDS:-$(seq 0 $((NUM_SHARDS - 1)))}; do
  restore
  on_this_machine || status=$? # files that failed keep no other shard from its turn
done
exit "$status"
