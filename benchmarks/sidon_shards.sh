#!/usr/bin/env bash
# Sidon's recipe on real speech, with the commands that a user types, small enough for two cores: raw
# recordings, shards of degraded pairs, three stages, restored shards.
#
#     benchmarks/sidon_shards.sh SPEECH_DIR SPEECH_48K_DIR NOISE_DIR OUT_DIR [STEPS1 STEPS2 STEPS3]
#
# SPEECH_DIR has a folder for each voice; the first voice is held back. SPEECH_48K_DIR has full-band
# speech; every tenth file is held back. NOISE_DIR has a metadata.csv. OUT_DIR must not exist. The
# encoder is a w2v-BERT of random weights: the run shows that the parts work together and learn.
set -euo pipefail
if [ $# -ne 4 ] && [ $# -ne 7 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
speech=$(realpath "$1") full_band=$(realpath "$2") noise=$(realpath "$3")
mkdir "$4" && out=$(realpath "$4")
steps=("${5:-200}" "${6:-100}" "${7:-40}")
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
two() { torchrun --standalone --nproc_per_node 2 "$@"; }
timed() {
  local before=$SECONDS
  "$@"
  echo "took $((SECONDS - before)) s: ${*:1:4}" | tee -a "$out/seconds.txt"
}

mkdir -p "$out"/speech/{train,test} "$out"/full_band/{train,test}
part="test"
for voice in "$speech"/*/; do
  ln -s "$voice" "$out/speech/$part/$(basename "$voice")"
  part="train"
done
number=0
while read -r file; do
  part="train"
  if [ $((number % 10)) -eq 0 ]; then part="test"; fi
  ln -s "$file" "$out/full_band/$part/"
  number=$((number + 1))
done < <(find "$full_band" -name "*.flac" | sort)
for folder in "$out"/{speech,full_band}/{train,test}; do
  "$python" dataset/script/make_metadata_csv.py --root-dir "$folder"
done
"$python" dataset/script/make_rir_bank.py --output-dir "$out/rooms" --num-rirs 40 \
  --sample-rate 48000 --rt60 0.1 1.0 --width 2 12 --depth 2 12 --height 2 5

"$python" - "$out/w2v" <<'PYTHON'
import sys
import torch
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

torch.manual_seed(0)
config = Wav2Vec2BertConfig(
    hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192
)
Wav2Vec2BertModel(config).save_pretrained(sys.argv[1])
SeamlessM4TFeatureExtractor().save_pretrained(sys.argv[1])
PYTHON

for kind in 24k:speech 48k:full_band; do
  timed two src/preprocess.py "data=webdataset_preprocess_${kind%:*}" \
    "preprocess.output_root=$out/shards" "preprocess.writer_name=${kind#*:}" \
    "data.train.dir_list=[$out/${kind#*:}/train]" "data.test.dir_list=[$out/${kind#*:}/test]" \
    "data.train.noise_dir_list=[$noise]" "data.train.rir_dir_list=[$out/rooms]"
  "$python" dataset/script/summarise_shards.py "$out/shards/${kind#*:}"
done

common=(trainer.validate_every=20 trainer.sample_every=0 trainer.num_workers=0
  trainer.logger.kind=none trainer.ema.decay=0.99 trainer.amp=no)
encoder=("model.encoder.source=$out/w2v" model.encoder.layer=2)
pairs=(data=preprocessed_48k data.crop_seconds=3 trainer.batch_size=4
  "data.train_urls=$out/shards/full_band/train" "data.val_urls=$out/shards/full_band/val"
  data.test.clip_seconds=4)
small=('model.discriminators.multi_period={periods: [2, 5], channels: [4, 8, 8]}'
  'model.discriminators.multi_band_stft={win_lengths: [512], channels: 4}')
timed two src/train.py model=sidon_feature_predictor data=preprocessed data.sample_rate=24000 \
  data.crop_seconds=4 "data.train_urls=$out/shards/speech/train" \
  "data.val_urls=$out/shards/speech/val" "${encoder[@]}" "${common[@]}" \
  model.cleaner.rank=32 optimizer.cleaner.lr=5e-3 trainer.batch_size=8 \
  "trainer.max_steps=${steps[0]}" "trainer.output_dir=$out/stage1"
timed two src/train.py model=sidon_vocoder_pretrain "${pairs[@]}" "${encoder[@]}" "${common[@]}" \
  "${small[@]}" model.segment_seconds=0.32 model.vocoder.channels=128 optimizer.generator.lr=1e-3 \
  "trainer.max_steps=${steps[1]}" "trainer.output_dir=$out/stage2"
timed two src/train.py model=sidon_vocoder_finetune "${pairs[@]}" "${common[@]}" \
  "model.cleaner_ckpt_dir=$out/stage1" "model.vocoder_ckpt_dir=$out/stage2" \
  model.segment_seconds=0.32 optimizer.generator.lr=5e-4 \
  "trainer.max_steps=${steps[2]}" "trainer.output_dir=$out/stage3"

timed two src/inference.py --ckpt-dir "$out/stage3" --input-audio-dir "$out/full_band/test" \
  --output-dir "$out/restored" --output-shards 4
"$python" src/status.py "$out/restored" --verify
cat "$out/seconds.txt"
