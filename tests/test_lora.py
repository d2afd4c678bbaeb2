"""Changes of weights as a LoRA: exact when whole, the best of its rank otherwise, and honest about the rest."""

import pytest
import torch

from trce_ops.delta.lora import LoraSettings, low_rank, make_lora


def matrix(out, width, seed=0):
    """Singular values that fall by half from one to the next."""
    noise = torch.Generator().manual_seed(seed)
    k = min(out, width)
    U, V = (torch.linalg.qr(torch.randn(n, k, generator=noise, dtype=torch.float64)).Q for n in (out, width))
    return (U * 0.5 ** torch.arange(k)) @ V.mT


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
def test_factors_are_the_best_of_the_least_rank_that_keeps_the_energy(shape, energy):
    dW = matrix(*shape)
    up, down = low_rank(dW, energy)
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    kept = (S**2).cumsum(0) / (S**2).sum()
    r = int((kept < energy).sum()) + 1
    assert up.shape == (shape[0], r)
    assert down.shape == (r, shape[1])
    assert torch.allclose(up @ down, (U[:, :r] * S[:r]) @ Vh[:r], atol=1e-9)
    assert torch.allclose(up.norm(dim=0), down.norm(dim=1), atol=1e-9)


def test_a_change_of_low_rank_is_found_whole():
    noise = torch.Generator().manual_seed(1)
    dW = torch.randn(20, 3, generator=noise) @ torch.randn(3, 40, generator=noise)
    up, down = low_rank(dW, 1 - 1e-9)
    assert up.shape[1] == 3
    assert torch.allclose((up @ down).float(), dW, atol=1e-5)


def test_the_rank_can_be_limited_and_nothing_is_clamped():
    dW = matrix(12, 30)
    dW[0, 0] = 40.0  # one entry far beyond the others, as clamping would take away
    up, down = low_rank(dW, 0.999999, max_rank=2)
    assert up.shape[1] == 2
    assert abs((up @ down)[0, 0] - 40) < 0.5


def test_whole_matrices_are_exact_and_modules_without_a_change_left_out():
    changes = {"a.to_k": matrix(6, 8).float(), "a.to_v": torch.zeros(6, 8)}
    lora, report = make_lora(changes.items(), LoraSettings())
    assert list(lora) == ["a.to_k.diff"]
    assert torch.equal(lora["a.to_k.diff"], changes["a.to_k"])
    assert report.error == 0
    assert "1 projections, whole matrices" in report.text()


@pytest.mark.parametrize(
    "settings", [LoraSettings(0.9), LoraSettings(0.99, 2), LoraSettings(1.0, 3), LoraSettings(dtype=torch.float16)]
)
def test_the_error_in_the_report_is_the_error_of_the_file(settings):
    changes = {"a": matrix(12, 30), "b": 3 * matrix(30, 12, seed=1)}
    lora, report = make_lora(changes.items(), settings)
    made = {}
    for name in changes:
        if f"{name}.diff" in lora:
            made[name] = lora[f"{name}.diff"].double()
        else:
            assert lora[f"{name}.alpha"] == lora[f"{name}.lora_up.weight"].shape[1]
            made[name] = lora[f"{name}.lora_up.weight"].double() @ lora[f"{name}.lora_down.weight"].double()
    lost = {name: (made[name] - dW).norm() / dW.norm() for name, dW in changes.items()}
    total = sum((made[name] - dW).square().sum() for name, dW in changes.items()).sqrt()
    assert report.worst == pytest.approx(max(lost.values()).item(), rel=1e-6)
    assert report.error == pytest.approx((total / sum(dW.square().sum() for dW in changes.values()).sqrt()).item())
    assert 0 < report.error < 0.5
    assert report.megabytes * 1e6 == sum(t.numel() * t.element_size() for t in lora.values())
