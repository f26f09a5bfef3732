#!/usr/bin/env bash
# From text to a voice: texts are spoken by espeak-ng, damaged, restored and turned into tokens; a small
# text-to-speech model learns from what was restored, and speaks the first texts again.
# From the repository's root: jobs/local/text_to_tts.sh TEXTS     (a file with one text a line)
# The same command goes on where it was ended. Variables: jobs/common.sh, and
#   VOICE       of espeak-ng (en-us)
#   CKPT_DIR    the restorer; empty: the one that comes with the project
#   CODEC       overrides of the codec ("codec=demo"; "codec=encodec_24khz codec.source=DIR")
#   MODEL       demo_token_tts
#   EXTRA       more overrides of the training, as data.seconds=6 trainer.max_steps=2000
cd "$(dirname "$0")/../.." || exit
CKPT_DIR="${CKPT_DIR:-pretrained/default}"
OUTPUT_DIR="${OUTPUT_DIR:-output/text_to_tts}"
CODEC="${CODEC:-codec=demo}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
(($# == 1)) || stop_here "give one argument: jobs/local/text_to_tts.sh TEXTS"
MODEL="${MODEL:-demo_token_tts}"
prepare
read -ra codec <<<"$CODEC"
read -ra extra <<<"$EXTRA"
out=$OUTPUT_DIR
made_of "$out" "$(sha256sum "$1") $CODEC ${VOICE:-} $CKPT_DIR $NOISE_DIRS $RIR_DIRS"
python src/synthesize.py "dataset.name=$(quoted "$1")" tts.backend=espeak \
  "tts.voice=${VOICE:-en-us}" "${codec[@]}" "processing.save_dir=$(quoted "$out/spoken")"
if [[ ! -f $out/damaged/metadata.csv ]]; then # its index comes last
  rm -rf "$out/damaged"
  python dataset/script/damage_audio.py --input-dir "$out/spoken" --output-dir "$out/damaged" \
    "data.train.noise_dir_list=$(as_list "$NOISE_DIRS")" \
    "data.train.rir_dir_list=$(as_list "$RIR_DIRS")"
fi
python src/inference.py --ckpt-dir "$CKPT_DIR" --input-audio-dir "$out/damaged" \
  --output-dir "$out/restored"
cp "$out/damaged/metadata.csv" "$out/restored/" # for its texts
python dataset/script/make_metadata_csv.py --root-dir "$out/restored"
python src/train.py "model=$MODEL" "${codec[@]}" \
  "data.train.dir_list=$(as_list "$out/restored")" "trainer.output_dir=$(quoted "$out/tts")" \
  trainer.ckpt_dir=auto "${extra[@]}"
head -n 4 "$1" >"$out/said.txt"
python src/generate.py --ckpt-dir "$out/tts" --text-file "$out/said.txt" --output-dir "$out/heard"
