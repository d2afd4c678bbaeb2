"""The benchmark compares like with like: the published procedure, written out, gives the pack's result."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from trce_ops.closed_form.solve import solve_context_map

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def official():
    spec = importlib.util.spec_from_file_location("official_stage1", BENCHMARKS / "official_stage1.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def embeddings(n, d, seed):
    """Uneven in their directions, as a text encoder's are: eigenvalues of their moment span ten orders of magnitude."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=noise, dtype=torch.float64) * torch.logspace(0, -5, d, dtype=torch.float64)


@pytest.mark.parametrize("role_weights", [(0.0, 1.0, 0.0, 0.0), (0.5, 1.0, 0.1, 2.0)])
def test_the_published_procedure_in_float64_gives_the_same_projections(official, encoder, role_weights):
    noise = torch.Generator().manual_seed(0)
    projections = [torch.randn(out, encoder.width, generator=noise, dtype=torch.float64) for out in (8, 16)]
    K = torch.randn(200, encoder.width, generator=noise, dtype=torch.float64)
    P = K.mT @ K / len(K)

    def prompt(text):
        ids = encoder.tokenize(text)
        eot = ids.index(encoder.eot_id)
        return official.Prompt(ids, (0, eot, 76, eot - 1))

    texts = [("a gun", "an umbrella"), ("a photo of a gun", "a photo of an umbrella"), ("war", "peace")]
    pairs = [(prompt(source), prompt(target)) for source, target in texts]
    prepared = official.prepare(lambda ids: encoder.encode([ids], 77)[0].double(), pairs, projections)
    cache = official.prior_cache(projections, P)
    edited = official.refine(projections, prepared, cache, role_weights, preserve_scale=0.01)

    sources, targets, weights = [], [], []
    for source, target in pairs:
        z, z_safe = (encoder.encode([p.ids], 77)[0].double() for p in (source, target))
        counts = (1, 1, 76 - source.roles[1], 1)
        for p, q, weight, count in zip(source.roles, target.roles, role_weights, counts):
            sources.append(z[p])
            targets.append(z_safe[q])
            weights.append(
                torch.tensor(weight * count * len(role_weights), dtype=torch.float64)
            )  # the solver takes the mean over all rows
    T = solve_context_map(
        torch.stack(sources), torch.stack(targets), torch.stack(weights), P, preserve_scale=0.01, ridge=0.0
    )
    for W, W_edited in zip(projections, edited):
        assert (W_edited - W).norm() > 0.1 * W.norm()
        assert (W_edited - W @ T).norm() < 1e-9 * (W_edited - W).norm()


@pytest.mark.parametrize("n", [15, 300, 900])
def test_the_map_at_the_published_settings_is_that_of_an_independent_solution(official, n):
    """No ridge and a weak prior, where float32 loses every digit. The other solution is a least squares problem by
    SVD in NumPy, which never forms the normal equation: sqrt(w) |D c - (s - c)|^2 + eta |D k|^2."""
    d = 256
    C, S, K = embeddings(n, d, 1), embeddings(n, d, 2), embeddings(3000, d, 3)
    eta = official.PRESERVE_MEAN
    T = solve_context_map(C, S, torch.ones(n), K.mT @ K / len(K), preserve_scale=eta, ridge=0.0)

    rows = torch.cat([C / n**0.5, (eta / len(K)) ** 0.5 * K])
    wanted = torch.cat([(S - C) / n**0.5, torch.zeros_like(K)])
    D = torch.from_numpy(numpy.linalg.lstsq(rows.numpy(), wanted.numpy(), rcond=None)[0].T)
    assert numpy.linalg.cond(rows.numpy()) ** 2 > 1e9
    assert (T - torch.eye(d, dtype=T.dtype) - D).norm() < 1e-6 * D.norm()


def test_the_figures_of_stage_2_are_written_under_their_names(comfy_host, tmp_path):
    """What can be counted without a full-size model; the rest takes minutes."""
    out = tmp_path / "speed.json"
    command = [sys.executable, BENCHMARKS / "speed.py", "--sections", "stage2", "--json", out]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr

    figures = json.loads(out.read_text())
    for name in ("data", "train"):
        ours, official = (figures[f"stage2_{name}_evaluations_{side}"] for side in ("ours", "official"))
        assert figures[f"stage2_{name}_evaluations"] == pytest.approx(official / ours)
        assert official > ours > 0
        assert f"{official:,} / {ours:,}" in result.stdout
