"""The solver against the objective it claims to minimise."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trce_ops.closed_form.solve import NotPositiveDefinite, factorize, solve_context_map, solve_factors


def problem(n, d, seed=0):
    noise = torch.Generator().manual_seed(seed)
    sources, targets = torch.randn(2, n, d, generator=noise, dtype=torch.float64)
    weights = torch.rand(n, generator=noise, dtype=torch.float64)
    kept = torch.randn(4 * d, d, generator=noise, dtype=torch.float64)
    return sources, targets, weights, kept.mT @ kept / len(kept)


def literal(W, sources, targets, weights, preserve, eta, mu):
    """One layer, term by term as the paper writes it, W' = (sum ...) (sum ...)^-1."""
    n, d = sources.shape
    numerator = eta * W @ preserve + mu * W
    denominator = eta * preserve + mu * torch.eye(d, dtype=W.dtype)
    for c, s, w in zip(sources, targets, weights):
        numerator = numerator + w / n * torch.outer(W @ s, c)
        denominator = denominator + w / n * torch.outer(c, c)
    return numerator @ torch.linalg.inv(denominator)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 12),
    d=st.integers(1, 16),
    seed=st.integers(0, 1000),
    eta=st.floats(0.01, 10),
    mu=st.floats(0.01, 10),
)
def test_equals_the_literal_solution_of_every_layer(n, d, seed, eta, mu):
    sources, targets, weights, P = problem(n, d, seed)
    T = solve_context_map(sources, targets, weights, P, preserve_scale=eta, ridge=mu)
    for out in (3, 2 * d):
        W = torch.randn(out, d, generator=torch.Generator().manual_seed(seed + out), dtype=torch.float64)
        assert torch.allclose(W @ T, literal(W, sources, targets, weights, P, eta, mu), atol=1e-9)


def test_more_rows_than_one_block_make_no_difference():
    sources, targets, weights, P = problem(9000, 8)
    T = solve_context_map(sources, targets, weights, P, preserve_scale=1, ridge=0.1)
    W = torch.eye(8, dtype=torch.float64)
    assert torch.allclose(T, literal(W, sources, targets, weights, P, 1, 0.1))


def test_no_pairs_leave_everything_as_it_is():
    _, _, _, P = problem(1, 6)
    nothing = torch.empty(0, 6)
    T = solve_context_map(nothing, nothing, torch.empty(0), P, preserve_scale=1, ridge=0)
    assert torch.equal(T, torch.eye(6, dtype=torch.float64))


def test_the_more_is_preserved_the_less_changes():
    sources, targets, weights, P = problem(5, 12)
    change = [
        (solve_context_map(sources, targets, weights, P, preserve_scale=eta, ridge=1e-6) - torch.eye(12)).norm()
        for eta in (1e-3, 1, 1e3, 1e9)
    ]
    assert change == sorted(change, reverse=True)
    assert change[-1] < 1e-6


def test_without_constraints_every_source_lands_on_its_target():
    sources, targets, weights, _ = problem(5, 12)
    T = solve_context_map(sources, targets, weights + 0.1, None, preserve_scale=0, ridge=1e-9)
    assert torch.allclose(sources @ T.mT, targets, atol=1e-5)


def test_a_system_without_unique_solution_names_the_ridge():
    sources, targets, weights, _ = problem(5, 12)
    with pytest.raises(NotPositiveDefinite, match="raise 'ridge'"):
        solve_context_map(sources, targets, weights, None, preserve_scale=0, ridge=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", range(4))
def test_nan_and_inf_are_refused(place, bad):
    tensors = list(problem(5, 12))
    tensors[place].view(-1)[3] = bad
    with pytest.raises(ValueError, match="NaN or Inf"):
        solve_context_map(*tensors, preserve_scale=1, ridge=1)


def test_negative_weights_and_wrong_shapes_are_refused():
    sources, targets, weights, P = problem(5, 12)
    with pytest.raises(ValueError, match="0 or more"):
        solve_context_map(sources, targets, -weights, P, preserve_scale=1, ridge=1)
    with pytest.raises(ValueError, match="do not fit"):
        solve_context_map(sources, targets[:4], weights, P, preserve_scale=1, ridge=1)


@pytest.mark.parametrize(("n", "factors"), [(3, 2), (11, 2), (12, 1), (24, 1)])
def test_factors_are_as_small_as_they_can_be_and_exact(n, factors):
    sources, targets, weights, P = problem(n, 24)
    D = solve_context_map(sources, targets, weights, P, preserve_scale=1, ridge=1) - torch.eye(24)
    context_map = factorize(D)
    assert len(context_map.factors) == factors
    assert context_map.rank == (n if factors == 2 else 24)
    assert all(factor.dtype == torch.float32 for factor in context_map.factors)
    assert (context_map.dense() - D).norm() < 2e-5 * D.norm()
    c = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(context_map.apply(c, 0.5), c + 0.5 * c @ D.float().mT, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 5, 11, 12, 20, 24, 30])
def test_factors_straight_from_the_solve_are_those_of_the_whole_matrix(n):
    """Without a (d, d) matrix in between, and with pairs that say the same twice."""
    sources, targets, weights, P = problem(n, 24)
    sources[n // 2 :], targets[n // 2 :] = sources[: n - n // 2].clone(), targets[: n - n // 2].clone()
    asked = dict(preserve_scale=1, ridge=1)
    D = solve_context_map(sources, targets, weights, P, **asked) - torch.eye(24)
    factors = solve_factors(sources, targets, weights, P, **asked)
    assert [tuple(factor.shape) for factor in factors] == ([(24, n), (n, 24)] if n <= 24 else [(24, 24)])
    direct, dense = factorize(*factors), factorize(D)
    distinct = n - n // 2
    assert direct.rank == dense.rank == (distinct if distinct < 12 else 24)
    assert (torch.linalg.multi_dot(factors) if n <= 24 else factors[0]).sub(D).norm() <= 1e-14 * D.norm()
    assert (direct.dense() - dense.dense()).norm() <= 1e-6 * D.norm()
    if direct.rank < 12:  # the columns of up have the sizes of D's singular values, down has orthonormal rows
        up, down = (factor.double() for factor in direct.factors)
        singular = torch.linalg.svdvals(D)[: direct.rank]
        assert torch.allclose(up.norm(dim=0), singular, rtol=1e-5)
        assert torch.allclose(down @ down.mT, torch.eye(direct.rank, dtype=down.dtype), atol=1e-6)


def test_factors_of_few_pairs_do_not_cost_what_the_width_does():
    """Of SD3's width, 4096, an eigendecomposition takes a minute; the solve itself takes two seconds."""
    noise = torch.Generator().manual_seed(0)
    up, down = torch.randn(2, 4096, 30, generator=noise, dtype=torch.float64)
    began = time.process_time()
    context_map = factorize(up, down.mT)
    assert time.process_time() - began < 5
    assert context_map.rank == 30
    c = torch.randn(5, 4096, generator=noise, dtype=torch.float64)
    expected = c @ down @ up.mT
    assert (context_map.shift(c) - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("n", [100, 600])
@pytest.mark.parametrize("d", [192, 193, 450])
def test_wide_systems_are_solved_as_narrow_ones_are(n, d):
    """Wider than what is summed up at a time."""
    sources, targets, weights, P = (x.double() for x in problem(n, d))
    T = solve_context_map(sources, targets, weights, P, preserve_scale=0.5, ridge=0.1)
    A = (weights[:, None] * sources).mT @ sources / n + 0.5 * P + 0.1 * torch.eye(d, dtype=torch.float64)
    shift = (targets - sources).mT @ (weights[:, None] * sources) / n
    D = torch.linalg.solve(A, shift, left=False)
    assert (T - torch.eye(d) - D).norm() < 1e-11 * D.norm()


@pytest.mark.parametrize("d", [24, 25])
def test_the_quick_look_agrees_with_all_singular_values(d):
    """For spectra that end early, late or not at all, on either side of the point where factors are no smaller."""
    noise = torch.Generator().manual_seed(0)
    ranks = set()
    for decay in torch.linspace(0.5, 11.9, 200, dtype=torch.float64):
        U, V = (torch.linalg.qr(torch.randn(d, d, generator=noise, dtype=torch.float64)).Q for _ in range(2))
        sizes = 10 ** (-decay * torch.arange(d) / (d / 2))
        lost = (sizes**2).flip(0).cumsum(0)
        rank = int((lost > 1e-10 * lost[-1]).sum())
        ranks.add(rank)
        assert factorize(U @ torch.diag(sizes) @ V).rank == (d if 2 * rank >= d else rank)
    assert min(ranks) < d // 2 - 1 and d // 2 + 1 in ranks and d in ranks


def test_energy_decides_the_rank():
    D = torch.diag(torch.tensor([10.0, 3.0, 1.0] + [0.0] * 17))
    assert factorize(D, energy=0.9).rank == 1
    assert factorize(D, energy=0.95).rank == 2
    assert factorize(D).rank == 3
    assert factorize(torch.zeros(20, 20)).rank == 0
