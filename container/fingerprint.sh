#!/usr/bin/env bash
# Print one hash of everything the image is made of; tested.txt has the hash of the tested image.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z -- Open-Miipher-2.def container src config dataset pretrained .dockerignore \
  ':!container/tested.txt' ':!container/requirements-dev.lock' |
  xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1
