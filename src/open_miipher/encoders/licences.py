"""Licences of the pretrained encoders, as their publishers state them."""

LICENCES = {
    "google/gemma-4-E2B-it": "Apache-2.0",
    "google/gemma-3n-E2B-it": "Gemma terms",
    "facebook/w2v-bert-2.0": "MIT",
    "microsoft/wavlm-base-plus": "CC BY-SA 3.0",
    "microsoft/wavlm-large": "CC BY-SA 3.0",
    "facebook/hubert-base-ls960": "Apache-2.0",
    "facebook/hubert-large-ll60k": "Apache-2.0",
    "utter-project/mHuBERT-147": "CC BY-NC-SA 4.0",
    "facebook/wav2vec2-xls-r-300m": "Apache-2.0",
}
"""The licence of each model, by hub id."""
