"""Diffusions of a few weights, and tones for them to learn."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
TONES = (500, 1500)  # Hz

NARROW = [
    "model.diffusion_step_embed_dim_mid=16",
    "model.diffusion_step_embed_dim_out=16",
    "model.diffusion.T=8",
    "model.diffusion.beta_T=0.4",
]
_SIZES = {
    "wavenet": [
        "model=demo_diffwave",
        "model.res_channels=8",
        "model.skip_channels=8",
        "model.num_res_layers=4",
        "model.dilation_cycle=4",
    ],
    "sashimi": ["model=demo_sashimi", "model.d_model=4", "model.n_layers=1"],
}
BACKBONES = sorted(_SIZES)
VOCODER = [
    "model.unconditional=false",
    "model.mel_upsample=[8,8]",
    "data.mel.n_mels=20",
    "data.mel.hop_length=64",
    "model.mel.n_fft=256",
    "model.mel.win_length=256",
    "model.mel.f_max=4000",
]


def overrides(backbone: str, directory: Path, *more: str) -> list[str]:
    """A run of a few seconds on one core."""
    return [
        *_SIZES[backbone],
        *NARROW,
        f"data.sample_rate={RATE}",
        "data.crop_seconds=0.125",
        f"data.train.dir_list=[{directory}]",
        f"data.test.dir_list=[{directory}]",
        "data.test.num_clips=2",
        "trainer.batch_size=4",
        "trainer.num_workers=0",
        "trainer.device=cpu",
        "trainer.sample_every=0",
        *more,
    ]


def make_tones(root: Path, num_clips: int = 6) -> Path:
    """Make indexed clips of 0.125 s, each of one of the tones in a phase of its own."""
    from open_miipher.index import Entry, write_index

    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    t = np.arange(1000) / RATE
    entries = []
    for number in range(num_clips):
        tone = 0.4 * np.sin(2 * np.pi * (TONES[number % 2] * t + rng.uniform()))
        soundfile.write(root / f"{number}.wav", tone.astype(np.float32), RATE)
        entries.append(Entry(f"{number}.wav", RATE, len(tone), 1, {}))
    write_index(root, entries)
    return root
