#!/usr/bin/env bash
# Train the small restorer from nothing, on the processor; the same command goes on with a run.
# From the repository's root: jobs/local/train_default.sh SPEECH NOISE RIR
# Each is an indexed folder, or several in one argument with spaces between them; speech has a column
# `speaker`, RIR are measured rooms. Variables: jobs/common.sh.
cd "$(dirname "$0")/../.." || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/default}"
NPROC="${NPROC:-1}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
(($# == 3)) || stop_here "give three arguments: jobs/local/train_default.sh SPEECH NOISE RIR"
prepare
material=$OUTPUT_DIR/material
if [[ ! -d $material ]]; then # some minutes; under another name until it is whole
  rm -rf "$material.tmp"
  # shellcheck disable=SC2086  # several folders in one argument
  python dataset/script/split_by_speaker.py --speech-dirs $1 --noise-dirs $2 --rir-dirs $3 \
    --output-dir "$material.tmp"
  python dataset/script/make_rir_bank.py --output-dir "$material.tmp/train/rooms" --num-rirs 300 \
    --rt60 0.15 1.0
  python dataset/script/make_rir_bank.py --output-dir "$material.tmp/test/rooms" --num-rirs 40 \
    --rt60 0.15 1.0 --seed 1
  mv "$material.tmp" "$material"
fi
SPEECH_DIRS=$material/train/speech NOISE_DIRS=$material/train/noise TEST_DIRS=$material/test/speech
RIR_DIRS="$material/train/rir $material/train/rooms"
train small_restorer data=restorer "data.test.noise_dir_list=$(as_list "$material/test/noise")" \
  "data.test.rir_dir_list=$(as_list "$material/test/rir $material/test/rooms")" trainer.device=cpu
on_this_machine
