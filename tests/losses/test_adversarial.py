import pytest
import torch
from torch import Tensor, nn

from open_miipher.losses import (
    discriminator_loss,
    feature_matching,
    generator_losses,
    hinge_discriminator,
    hinge_generator,
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


def waveforms(number: int, batch: int = 4) -> list[Tensor]:
    return list(torch.randn(number, batch, 60, generator=torch.Generator().manual_seed(0)))


def test_hinge_has_the_known_answers():
    real = [torch.tensor([[2.0, 0.5], [1.0, -1.0]]), torch.tensor([[1.0], [0.0]])]
    fake = [torch.tensor([[-2.0, -0.5], [-1.0, 1.0]]), torch.tensor([[-1.0], [3.0]])]
    assert hinge_discriminator(real, fake) == pytest.approx(
        ((0 + 0.5 + 0 + 2) / 4 + (0 + 1) / 2) / 2 + ((0 + 0.5 + 0 + 2) / 4 + (0 + 4) / 2) / 2
    )
    assert hinge_generator(fake) == pytest.approx((2.5 / 4 - 2 / 2) / 2)


def test_feature_matching_has_the_known_answer_and_leaves_logits_out():
    real = [[torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 1)]]
    fake = [[torch.ones(1, 2), -3 * torch.ones(1, 3), 100 * torch.ones(1, 1)]]
    assert feature_matching(real, fake) == 2


def test_every_iteration_counts_alike():
    judge = Judge()
    target, *outputs = waveforms(4)
    together = generator_losses(judge, target, outputs)
    alone = [generator_losses(judge, target, [output]) for output in outputs]
    for name, value in together.items():
        torch.testing.assert_close(value, sum(losses[name] for losses in alone) / 3)
    torch.testing.assert_close(
        discriminator_loss(judge, target, outputs),
        sum(discriminator_loss(judge, target, [output]) for output in outputs) / 3,
    )


def test_mean_over_halves_is_the_whole_in_value_and_gradient():
    target, *outputs = waveforms(3)
    rows = (slice(0, 4), slice(0, 2), slice(2, 4))

    def values_and_gradients(parts):
        judge = Judge()
        leaves = [output.clone().requires_grad_() for output in outputs]
        values = []
        for part in parts:
            fakes = [leaf[part] for leaf in leaves]
            losses = generator_losses(judge, target[part], fakes)
            losses["discriminator"] = discriminator_loss(judge, target[part], fakes)
            values.append(sum(losses.values()) / len(parts))
        sum(values).backward()
        return [sum(values), *(x.grad for x in [*leaves, *judge.parameters()])]

    for whole, halves in zip(
        values_and_gradients(rows[:1]), values_and_gradients(rows[1:]), strict=True
    ):
        torch.testing.assert_close(halves, whole)


def test_each_loss_moves_only_its_own_side():
    judge = Judge()
    target, output = waveforms(2)
    target.requires_grad_()
    output.requires_grad_()
    discriminator_loss(judge, target.detach(), [output]).backward()
    assert output.grad is None
    judge.zero_grad()
    judge.requires_grad_(False)
    sum(generator_losses(judge, target, [output]).values()).backward()
    assert output.grad.any()
    assert target.grad is None
    assert all(p.grad is None for p in judge.parameters())


def test_the_discriminator_sees_one_batch():
    calls = []
    judge = Judge()

    def watched(waveform):
        calls.append(len(waveform))
        return judge(waveform)

    target, *outputs = waveforms(4)
    discriminator_loss(watched, target, outputs)
    assert calls == [4 * 4]
