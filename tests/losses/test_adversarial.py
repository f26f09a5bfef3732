import pytest
import torch
from torch import Tensor, nn

from open_miipher.losses import (
    DiscriminatorLoss,
    GeneratorLosses,
    feature_distances,
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
)


class Judge(nn.Module):
    """Two sub-discriminators with one feature map each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(1, 3, 5)
        self.second = nn.Conv1d(3, 1, 5)

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        maps = []
        for x in (waveform, waveform[:, ::2]):
            features = self.first(x[:, None]).tanh()
            maps.append([features, self.second(features)])
        return maps


def discriminator_loss(judge: Judge, target: Tensor, outputs: list[Tensor], kind: str) -> Tensor:
    return DiscriminatorLoss(kind)(judge(torch.cat([target, *outputs])), len(target))


def waveforms(number: int, batch: int = 4) -> list[Tensor]:
    return list(torch.randn(number, batch, 60, generator=torch.Generator().manual_seed(0)))


def test_hinge_has_the_known_answers():
    real = [torch.tensor([[2.0, 0.5], [1.0, -1.0]]), torch.tensor([[1.0], [0.0]])]
    fake = [torch.tensor([[-2.0, -0.5], [-1.0, 1.0]]), torch.tensor([[-1.0], [3.0]])]
    assert hinge_discriminator(real, fake) == pytest.approx(
        ((0 + 0.5 + 0 + 2) / 4 + (0 + 1) / 2) / 2 + ((0 + 0.5 + 0 + 2) / 4 + (0 + 4) / 2) / 2
    )
    assert hinge_generator(fake) == pytest.approx((2.5 / 4 - 2 / 2) / 2)


def test_least_squares_have_the_known_answers():
    real = [torch.tensor([[2.0, 0.5], [1.0, -1.0]]), torch.tensor([[1.0], [0.0]])]
    fake = [torch.tensor([[-2.0, -0.5], [-1.0, 1.0]]), torch.tensor([[-1.0], [3.0]])]
    assert least_squares_discriminator(real, fake) == pytest.approx(
        (1 + 0.25 + 0 + 4) / 4 + (0 + 1) / 2 + (4 + 0.25 + 1 + 1) / 4 + (1 + 9) / 2
    )
    assert least_squares_generator(fake) == pytest.approx((9 + 2.25 + 4 + 0) / 4 + (4 + 4) / 2)


def test_least_squares_sum_over_maps_and_sub_discriminators():
    target, output = waveforms(2)
    judge = Judge()
    judge.requires_grad_(False)
    losses = GeneratorLosses("least_squares")(judge, target, [output])
    with torch.no_grad():
        real, fake = judge(target), judge(output)
    assert losses["feature_matching"] == pytest.approx(feature_distances(real, fake).sum().item())
    assert losses["adversarial"] == pytest.approx(
        sum((1 - sub[-1]).square().mean().item() for sub in fake)
    )
    assert discriminator_loss(judge, target, [output], "least_squares") == pytest.approx(
        least_squares_discriminator([s[-1] for s in real], [s[-1] for s in fake]).item()
    )


def test_feature_matching_has_the_known_answer_and_leaves_logits_out():
    real = [[torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 1)]]
    fake = [[torch.ones(1, 2), -3 * torch.ones(1, 3), 100 * torch.ones(1, 1)]]
    assert feature_distances(real, fake).tolist() == [1, 3]


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_every_iteration_counts_alike(kind):
    judge = Judge()
    target, *outputs = waveforms(4)
    together = GeneratorLosses(kind)(judge, target, outputs)
    alone = [GeneratorLosses(kind)(judge, target, [output]) for output in outputs]
    for name, value in together.items():
        torch.testing.assert_close(value, sum(losses[name] for losses in alone) / 3)
    torch.testing.assert_close(
        discriminator_loss(judge, target, outputs, kind),
        sum(discriminator_loss(judge, target, [output], kind) for output in outputs) / 3,
    )


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_mean_over_halves_is_the_whole_in_value_and_gradient(kind):
    target, *outputs = waveforms(3)
    rows = (slice(0, 4), slice(0, 2), slice(2, 4))

    def values_and_gradients(parts):
        judge = Judge()
        leaves = [output.clone().requires_grad_() for output in outputs]
        values = []
        for part in parts:
            fakes = [leaf[part] for leaf in leaves]
            losses = GeneratorLosses(kind)(judge, target[part], fakes)
            losses["discriminator"] = discriminator_loss(judge, target[part], fakes, kind)
            values.append(sum(losses.values()) / len(parts))
        sum(values).backward()
        return [sum(values), *(x.grad for x in [*leaves, *judge.parameters()])]

    for whole, halves in zip(
        values_and_gradients(rows[:1]), values_and_gradients(rows[1:]), strict=True
    ):
        torch.testing.assert_close(halves, whole)


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_the_generators_losses_move_its_side_alone(kind):
    judge = Judge()
    target, output = waveforms(2)
    target.requires_grad_()
    output.requires_grad_()
    judge.requires_grad_(False)
    sum(GeneratorLosses(kind)(judge, target, [output]).values()).backward()
    assert output.grad.any()
    assert target.grad is None
    assert all(p.grad is None for p in judge.parameters())
