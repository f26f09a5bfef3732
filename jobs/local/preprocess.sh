#!/usr/bin/env bash
# Make shards of degraded pairs of SPEECH_DIRS and SPEECH_URLS in OUTPUT_DIR/WRITER_NAME.
# Variables: jobs/common.sh. From the repository's root: jobs/local/preprocess.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
preprocess
on_this_machine
