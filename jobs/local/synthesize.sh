#!/usr/bin/env bash
# Speak TEXTS into OUTPUT_DIR: sound, and the tokens of a codec.
# Variables: jobs/common.sh. From the repository's root: jobs/local/synthesize.sh
cd "$(dirname "$0")/../.." || exit
# shellcheck source=jobs/common.sh
source jobs/common.sh
synthesize
on_this_machine
