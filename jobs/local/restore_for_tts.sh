#!/usr/bin/env bash
# Does a restored corpus train a better text-to-speech model? The same model is trained on clean, on
# damaged and on restored speech, some seeds each, and judged on texts held out; a table says it.
# From the repository's root: jobs/local/restore_for_tts.sh INDEX RESTORER
# INDEX is a folder of clean speech whose metadata.csv has a column `text`; RESTORER a checkpoint that
# was trained without it. The same command goes on where it was ended. Variables: jobs/common.sh, and
#   HELD_OUT    utterances for judging (60), evenly spaced in the index; the codec has not heard them
#   LONGEST     seconds of the longest utterance that the model learns and says (6)
#   SEEDS       of the training runs ("0 1 2")
#   CODEC       overrides of the codec ("codec=demo"; "codec=encodec_24khz codec.source=DIR")
#   MODEL       demo_token_tts
#   EXTRA       more overrides of the training, as trainer.max_steps=2000
#   NOISE_DIRS, RIR_DIRS   indexed noises and rooms for the damage; empty: generated
cd "$(dirname "$0")/../.." || exit
OUTPUT_DIR="${OUTPUT_DIR:-output/restore_for_tts}"
HELD_OUT="${HELD_OUT:-60}"
LONGEST="${LONGEST:-6}"
SEEDS="${SEEDS:-0 1 2}"
CODEC="${CODEC:-codec=demo}"
# shellcheck source=jobs/common.sh
source jobs/common.sh
(($# == 2)) || stop_here "give two arguments: jobs/local/restore_for_tts.sh INDEX RESTORER"
MODEL="${MODEL:-demo_token_tts}"
prepare
read -ra codec <<<"$CODEC"
read -ra extra <<<"$EXTRA"
out=$OUTPUT_DIR
made_of "$out" "$(realpath "$1") $(sha256sum "$1/metadata.csv") $(realpath "$2")" \
  "$HELD_OUT $LONGEST $CODEC $NOISE_DIRS $RIR_DIRS"
[[ -d $out/clean ]] ||
  python benchmarks/restored_tts.py split --index "$1" --held-out "$HELD_OUT" \
    --longest "$LONGEST" --output-dir "$out/clean"
damage=("data.train.noise_dir_list=$(as_list "$NOISE_DIRS")"
  "data.train.rir_dir_list=$(as_list "$RIR_DIRS")")
if [[ ! -f $out/damaged/train/metadata.csv ]]; then # some minutes; its index comes last
  rm -rf "$out/damaged"
  python dataset/script/damage_audio.py --input-dir "$out/clean/train" \
    --output-dir "$out/damaged/train" "${damage[@]}"
fi
python src/inference.py --ckpt-dir "$2" --input-audio-dir "$out/damaged/train" \
  --output-dir "$out/restored/train"
cp "$out/damaged/train/metadata.csv" "$out/restored/train/" # for its texts
python dataset/script/make_metadata_csv.py --root-dir "$out/restored/train"
for seed in $SEEDS; do
  for row in clean damaged restored; do
    run=$out/runs/$row-$seed
    python src/train.py "model=$MODEL" "${codec[@]}" \
      "data.train.dir_list=$(as_list "$out/$row/train")" \
      "data.test.dir_list=$(as_list "$out/clean/test")" "data.test.num_clips=$HELD_OUT" \
      "data.seconds=$LONGEST" "data.tokens_dir=$(quoted "$out/tokens")" \
      "trainer.seed=$seed" "trainer.output_dir=$(quoted "$run")" trainer.ckpt_dir=auto \
      "${extra[@]}"
    python src/generate.py --ckpt-dir "$run" --ckpt best --text-file "$out/clean/test/texts.txt" \
      --output-dir "$run/spoken" --seed "$seed"
  done
done
python benchmarks/restored_tts.py table --output-dir "$out" "${codec[@]}"
