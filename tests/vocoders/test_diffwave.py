import pytest
import torch
from tiny_diffusion import BACKBONES

from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys, white_noise
from open_miipher.base.registry import build
from open_miipher.vocoders import VOCODERS

MEL = {"sample_rate": 8000, "n_fft": 256, "win_length": 256, "hop_length": 16, "n_mels": 6}
SIZES = {
    "wavenet": {"res_channels": 8, "skip_channels": 8, "num_res_layers": 2, "dilation_cycle": 2},
    "sashimi": {"d_model": 4, "n_layers": 1, "pool": [2]},
}


def vocoder(name: str, **more):
    torch.manual_seed(0)
    backbone = {"name": name, **SIZES[name], "mel_bands": 6, "mel_upsample": [4, 4]}
    made = build(
        VOCODERS,
        {
            "name": "diffwave",
            "backbone": backbone,
            "mel": {**MEL, "f_max": 4000},
            "diffusion": {"T": 8, "beta_T": 0.4},
            **more,
        },
        6,
        500.0,
    )
    torch.nn.init.normal_(made.backbone.last.out.weight, std=0.3)
    return made


def noise(starts, num_samples: int) -> torch.Tensor:
    keys = stream_keys(0, torch.zeros(len(starts), dtype=torch.int64), 0)
    return white_noise(keys, torch.tensor(starts), num_samples)


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


def test_a_frame_gives_a_hop_of_samples_within_full_scale(name):
    made, features = vocoder(name), torch.randn(2, 10, 6) * 2 - 5
    heard = made.generate(features, noise([0, 7], 160))
    assert heard.shape == (2, 160)
    assert heard.abs().max() <= 1
    assert len(made.descent.betas) == 6
    assert len(vocoder(name, fast_levels=[]).descent.betas) == 8


def test_rows_of_other_lengths_are_what_they_are_alone(name):
    made, features = vocoder(name), torch.randn(2, 10, 6) * 2 - 5
    drawn = noise([0, 7], 160)
    heard = made.generate(features, drawn, torch.tensor([10, 4]))
    alone = made.generate(features[1:, :4], drawn[1:, :64])
    assert torch.equal(heard[1:, :64], alone)
    assert not heard[1, 64:].any()


def test_chunks_that_share_the_noise_at_the_start_share_all_of_it():
    """Within its reach of two layers in six steps, a WaveNet then makes the same of the same."""
    made = vocoder("wavenet")
    features = torch.full((1, 20, 6), -5.0)
    whole = made.generate(features, noise([0], 320))
    later = made.generate(features[:, :12], noise([128], 192))
    torch.testing.assert_close(later[0, 48:-48], whole[0, 128 + 48 : -48], rtol=0, atol=1e-5)


def test_the_steps_noises_are_independent():
    made, drawn = vocoder("wavenet"), noise([0], 4096)
    heard = []
    made.backbone.forward = lambda x, steps, mel: heard.append(x) or torch.zeros_like(x)
    made.generate(torch.full((1, 256, 6), -5.0), drawn)
    both = torch.stack([heard[0].flatten(), heard[1].flatten()])
    scale = (1 - made.descent.betas[-1]) ** 0.5
    added = both[1] - both[0] / scale
    assert abs(torch.corrcoef(torch.stack([both[0], added]))[0, 1]) < 0.05
    assert added.std() > 0.1


def test_features_of_another_front_end_are_refused():
    spec = {"backbone": {"name": "wavenet"}, "mel": MEL, "diffusion": {}}
    with pytest.raises(UserError, match="6 bands at 500 frames/s, not 80 at 100"):
        build(VOCODERS, {"name": "diffwave", **spec}, 80, 100.0)
