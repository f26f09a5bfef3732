#!/usr/bin/env bash
# Index SPEECH_DIRS, NOISE_DIRS, RIR_DIRS and TEST_DIRS: once, before training.
# Variables: jobs/common.sh. From the repository's root: jobs/local/make_index.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
prepare
make_index
