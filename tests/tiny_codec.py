"""A small EnCodec of random weights, of `transformers`' own class."""

import torch

TINY = {
    "num_filters": 4,
    "hidden_size": 16,
    "num_lstm_layers": 1,
    "target_bandwidths": [1.5, 3.0],
}


def overrides(directory):
    """A training run of a few seconds on one core, on indexed speech at 24 kHz."""
    return [
        "model=demo_codec",
        "model.network.num_filters=2",
        "model.network.hidden_size=8",
        "model.network.codebook_size=32",
        "model.mel={n_mels: [10, 20], win_lengths: [256, 1024], floor: 1.0e-4}",
        "data.crop_seconds=0.4",
        f"data.train.dir_list=[{directory}]",
        f"data.test.dir_list=[{directory}]",
        "data.test.num_clips=2",
        "data.test.clip_seconds=0.5",
        "trainer.batch_size=4",
        "trainer.num_workers=0",
        "trainer.device=cpu",
        "trainer.sample_every=0",
    ]


def make_codec(folder, **settings):
    """Save a small EnCodec whose codebooks are of its embeddings of noise; returns the model."""
    from transformers import EncodecConfig, EncodecModel

    from open_miipher.codec.network import keep_level

    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**{**TINY, **settings})).eval()
    if "norm_type" not in settings:  # else the weights are no parametrised ones
        keep_level(model)
    channels = settings.get("audio_channels", 1)
    levels = torch.rand(15, 1, 1) * torch.ones(1, channels, 24000)
    with torch.no_grad():
        seen = model.encoder(levels * torch.randn_like(levels)).transpose(1, 2).flatten(0, 1)
        seen = seen[torch.randperm(len(seen))]
        size = model.config.codebook_size
        for number, layer in enumerate(model.quantizer.layers):
            codes = seen[:size] if number == 0 else seen[:size] - seen[-size:]
            layer.codebook.embed.copy_(codes / (1 + number))
    model.save_pretrained(folder)
    return model
