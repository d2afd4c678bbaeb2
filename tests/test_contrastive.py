"""The losses of stage 2 against the formulas, one point at a time."""

import pytest
import torch

from trce_ops.tuning.losses import drift, hinge, position, tau_hinge


@pytest.fixture
def predictions():
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(5, 4, 3, 3, generator=noise, dtype=torch.float64) for _ in range(4)]  # e, e_neg, e_safe, e_u


def literal_hinge(e, e_neg, e_safe, e_u, beta, margin):
    f_safe = e_u + beta * (e_safe - e_u)
    f_unsafe = e_u + beta * (e_neg - e_u)
    loss = ((e - f_safe) ** 2).mean() - ((e - f_unsafe) ** 2).mean() + margin
    return max(loss.item(), 0.0)


@pytest.mark.parametrize(("beta", "margin"), [(15.0, 0.01), (1.0, 0.3), (3.0, 0.0)])
def test_the_hinge_is_the_papers(predictions, beta, margin):
    found = hinge(*predictions, beta, margin)
    expected = [literal_hinge(*(p[i] for p in predictions), beta, margin) for i in range(5)]
    assert found.tolist() == pytest.approx(expected)
    assert min(expected) == 0 < max(expected)  # on both sides of the hinge


def test_the_position_is_a_scale_from_the_concept_to_the_safe_target(predictions):
    e, e_neg, e_safe, _ = predictions
    assert position(e_neg, e_neg, e_safe).tolist() == pytest.approx([0] * 5, abs=1e-12)
    assert position(e_safe, e_neg, e_safe).tolist() == pytest.approx([1] * 5)
    assert position(e_neg + 0.3 * (e_safe - e_neg), e_neg, e_safe).tolist() == pytest.approx([0.3] * 5)
    aside = e - e_neg
    d = e_safe - e_neg
    for i in range(5):
        expected = (aside[i] * d[i]).sum() / (d[i] * d[i]).sum()
        assert position(e, e_neg, e_safe)[i].item() == pytest.approx(expected.item())


def test_the_tau_hinge_asks_for_the_goal_and_no_more(predictions):
    _, e_neg, e_safe, _ = predictions
    d = e_safe - e_neg
    for tau in (0.0, 0.5, 1.2, 2.0):
        e = (e_neg + tau * d).requires_grad_()
        loss = tau_hinge(e, e_neg, e_safe, 1.2)
        assert loss.tolist() == pytest.approx([max(1.2 - tau, 0)] * 5, abs=1e-9)
        (gradient,) = torch.autograd.grad(loss.sum(), e)
        # A step against the gradient goes straight to the safe side; beyond the goal there is none.
        along = position(e.detach() - gradient, e_neg, e_safe)
        assert (along > tau).all() if tau < 1.2 else not gradient.any() or tau == 1.2


def test_a_pair_without_a_difference_has_no_loss_and_no_nan(predictions):
    e, e_neg, _, _ = predictions
    e.requires_grad_()
    loss = tau_hinge(e, e_neg, e_neg.clone(), 1.2)
    loss.sum().backward()
    assert not loss.any()
    assert not e.grad.any()
    assert not position(e.detach(), e_neg, e_neg.clone()).any()


def test_drift_is_the_mean_square(predictions):
    e, kept, _, _ = predictions
    assert drift(e, kept)[2].item() == pytest.approx(((e[2] - kept[2]) ** 2).mean().item())
    assert not drift(kept, kept).any()
