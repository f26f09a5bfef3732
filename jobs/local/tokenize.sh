#!/usr/bin/env bash
# Turn INPUT_DIR, INPUT_SHARDS or INPUT_MANIFEST into tokens of a codec in OUTPUT_DIR.
# Variables: jobs/common.sh. From the repository's root: jobs/local/tokenize.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
tokenize
on_this_machine
