import torch

from open_miipher.losses import feature_losses


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, cleaned = torch.randn(2, 4, 10, 6, generator=generator)
    return clean, cleaned, torch.tensor([10, 3, 7, 1])


def test_known_answers():
    """Differences of 1 and of -2 against features of 2 and of 4, one frame of padding."""
    clean = torch.tensor([[[2.0, 2.0]] * 3, [[4.0, 4.0]] * 3])
    cleaned = clean + torch.tensor([1.0, -2.0])[:, None, None]
    losses = feature_losses(clean, cleaned, torch.tensor([3, 2]))
    assert losses["l1"] == (1 + 2) / 2
    assert losses["l2"] == (1 + 4) / 2
    assert losses["spectral_convergence"] == (1 / 4 + 4 / 16) / 2


def test_padding_changes_nothing_even_if_it_is_not_finite():
    clean, cleaned, lengths = inputs()
    expected = feature_losses(clean, cleaned, lengths)
    cleaned = cleaned.clone()
    clean = clean.clone()
    for row, length in enumerate(lengths):
        cleaned[row, length:] = torch.nan
        clean[row, length:] = torch.inf
    cleaned.requires_grad_()
    losses = feature_losses(clean, cleaned, lengths)
    assert losses == expected
    sum(losses.values()).backward()
    assert torch.isfinite(cleaned.grad).all()


def test_mean_over_halves_is_the_whole_in_value_and_gradient():
    clean, cleaned, lengths = inputs()
    whole = cleaned.clone().requires_grad_()
    joined = sum(feature_losses(clean, whole, lengths).values())
    joined.backward()
    halves = cleaned.clone().requires_grad_()
    parts = [
        sum(feature_losses(clean[rows], halves[rows], lengths[rows]).values())
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(parts) / 2, joined)
    (sum(parts) / 2).backward()
    torch.testing.assert_close(halves.grad, whole.grad)


def test_features_of_zero_are_safe():
    cleaned = torch.ones(1, 4, 3, requires_grad=True)
    losses = feature_losses(torch.zeros(1, 4, 3), cleaned, torch.tensor([4]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(cleaned.grad).all()
    equal = feature_losses(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.tensor([4]))
    assert not any(equal.values())


def test_half_precision_is_compared_in_float32():
    clean, cleaned, lengths = inputs()
    losses = feature_losses(clean.bfloat16(), cleaned.bfloat16(), lengths)
    assert {value.dtype for value in losses.values()} == {torch.float32}
