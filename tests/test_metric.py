"""What a model reads of its text: the metric, the map that is solved in it, and the factors that are trained in it."""

import pytest
import torch

from trce_ops.closed_form.metric import FLOOR, ROWS, gram, metric_root, resistance
from trce_ops.closed_form.solve import solve_context_map
from trce_ops.tuning.factors import Trained

WIDTH = 24


def projections(seed=0, unread=0):
    """Projections that read all but the last `unread` directions."""
    noise = torch.Generator().manual_seed(seed)
    weights = [scale * torch.randn(out, WIDTH, generator=noise) for out, scale in ((8, 1.0), (40, 0.1), (16, 7.0))]
    for W in weights:
        W[:, WIDTH - unread :] = 0
    return weights


def test_every_projection_counts_alike_whatever_its_size_and_its_scale():
    weights = projections()
    expected = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    for W in weights:
        W = W.double() / W.double().norm()
        expected += W.mT @ W * WIDTH / 3
    G = gram(weights, 3, WIDTH)
    torch.testing.assert_close(G, expected, rtol=1e-5, atol=1e-6)
    assert G.trace().item() == pytest.approx(WIDTH)
    torch.testing.assert_close(gram([7 * W for W in weights], 3, WIDTH), G, rtol=1e-5, atol=1e-6)


def test_columns_beyond_the_text_do_not_count():
    wide = [torch.cat([W, torch.full((len(W), 5), 9.0)], 1) for W in projections()]
    torch.testing.assert_close(gram(wide, 3, WIDTH), gram(projections(), 3, WIDTH))


def test_evenly_spaced_rows_stand_for_large_projections():
    many = torch.randn(50 * ROWS * WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)) * torch.arange(WIDTH)
    G, whole = gram([many], 1, WIDTH), many.mT @ many * WIDTH / many.square().sum()
    torch.testing.assert_close(G, gram([many[::50]], 1, WIDTH))
    assert (G - whole).norm() < 0.3 * whole.norm()


def test_the_resistance_is_the_inverse():
    G, eye = gram(projections(unread=4), 3, WIDTH), torch.eye(WIDTH, dtype=torch.float64)
    torch.testing.assert_close(resistance(G) @ (G + FLOOR * eye), eye)


def test_the_root_is_small_where_kept_text_is_and_where_nothing_is_read():
    G, noise = gram(projections(unread=8), 3, WIDTH), torch.Generator().manual_seed(7)
    kept = torch.randn(200, WIDTH, generator=noise) * torch.tensor([9.0] * 4 + [0.1] * (WIDTH - 4))
    L = metric_root(G, kept)
    padded = torch.cat([torch.zeros(20, kept.shape[1]), kept])  # zeros stand where there is no text
    torch.testing.assert_close(metric_root(G, padded), L)
    A = kept.double().mT @ kept.double() / 200 + resistance(G)
    torch.testing.assert_close(L @ A @ L, torch.eye(WIDTH, dtype=torch.float64))
    lengths = L.norm(dim=0)
    free = lengths[4 : WIDTH - 8].min()
    assert lengths[:4].max() < 0.5 * free
    assert lengths[WIDTH - 8 :].max() < 0.5 * free


def test_the_map_is_the_ridge_regression_on_embeddings_as_they_are_read():
    """min over M of sum w |M y - (s - c)|^2 / n + eta |M|_P^2 + mu |M|^2 for y = L^T c, and D = M L^T."""
    noise = torch.Generator().manual_seed(2)
    c, s = torch.randn(2, 6, WIDTH, generator=noise, dtype=torch.float64)
    w, k = torch.rand(6, generator=noise), torch.randn(50, WIDTH, generator=noise, dtype=torch.float64)
    P, G = k.mT @ k / 50, gram(projections(), 3, WIDTH)
    T = solve_context_map(c, s, w, P, preserve_scale=2.0, ridge=0.3, metric=G)
    L = torch.linalg.cholesky(G + FLOOR * torch.eye(WIDTH, dtype=torch.float64))
    A, B = 2.0 * L.mT @ P @ L + 0.3 * torch.eye(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, WIDTH).double()
    for c_i, s_i, w_i in zip(c, s, w.double()):
        y = L.mT @ c_i
        A += w_i / 6 * torch.outer(y, y)
        B += w_i / 6 * torch.outer(s_i - c_i, y)
    torch.testing.assert_close(T, torch.eye(WIDTH, dtype=torch.float64) + B @ torch.linalg.inv(A) @ L.mT)


def test_a_metric_of_all_directions_alike_is_the_ridge_of_the_paper():
    noise = torch.Generator().manual_seed(3)
    c, s = torch.randn(2, 6, WIDTH, generator=noise, dtype=torch.float64)
    given = {"weights": torch.ones(6), "preserve": None, "preserve_scale": 1.0}
    alike = (1 - FLOOR) * torch.eye(WIDTH, dtype=torch.float64)
    T = solve_context_map(c, s, **given, ridge=0.3, metric=alike)
    torch.testing.assert_close(T, solve_context_map(c, s, **given, ridge=0.3))


def test_what_the_model_does_not_read_is_no_cue():
    """Concept and kept text differ most where nothing is read; a text that has the concept's part there is spared."""
    unread = 8
    G = gram(projections(unread=unread), 3, WIDTH)
    seen = torch.zeros(WIDTH).double()
    seen[: WIDTH - unread] = torch.randn(WIDTH - unread, generator=torch.Generator().manual_seed(4)).double()
    hidden = torch.zeros(WIDTH).double()
    hidden[-1] = 3 * seen.norm()
    given = {"weights": torch.ones(1), "preserve": None, "preserve_scale": 1.0, "ridge": 0.3}
    moved = {}
    for metric in (None, G):
        D = solve_context_map((seen + hidden)[None], torch.zeros(1, WIDTH).double(), **given, metric=metric)
        D -= torch.eye(WIDTH, dtype=torch.float64)
        moved[metric is None] = ((D @ hidden).norm() / (D @ seen).norm()).item()
    assert moved[True] > 5  # taken for the concept by what does not show
    assert moved[False] < 0.1


def test_nan_and_other_shapes_are_refused():
    c = torch.ones(1, WIDTH)
    for metric in (torch.full((WIDTH, WIDTH), torch.nan), torch.eye(WIDTH - 1)):
        with pytest.raises(ValueError, match="metric"):
            solve_context_map(c, c, torch.ones(1), None, preserve_scale=1.0, ridge=0.3, metric=metric)


@pytest.mark.parametrize("rank", [2, 0])
def test_low_rank_factors_learn_on_what_is_read(rank):
    """A step of training changes what is read, and next to nothing of what is not; whole matrices learn on both."""
    W = projections(unread=8)[0]
    L = metric_root(gram([W], 1, WIDTH), torch.zeros(1, WIDTH)).float()
    trained = Trained({"k.weight": W}, rank, torch.Generator().manual_seed(5), L, ["k.weight"])
    assert not trained.changes["k.weight"].dense().any()
    optimizer = torch.optim.AdamW(trained.parameters, lr=0.1)
    target = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(6))
    for _ in range(20):
        optimizer.zero_grad()
        (trained.overrides(torch.float32)["k.weight"] - target).square().sum().backward()
        optimizer.step()
    dW = trained.result()["k"].dense()
    assert trained.change() == pytest.approx((dW.norm() / W.norm()).item(), rel=1e-4)
    read, unread = dW[:, : WIDTH - 8].norm(), dW[:, WIDTH - 8 :].norm()
    assert unread < 0.2 * read if rank else unread > 0.2 * read


class Uploaded(torch.Tensor):
    """Notes every move to a device."""

    uploads = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            cls.uploads.append(args[0].shape)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_all_projections_share_one_copy_of_the_root(monkeypatch):
    monkeypatch.setattr(Uploaded, "uploads", [])
    weights = {f"{i}.attn2.to_k.weight": torch.randn(4, WIDTH) for i in range(5)}
    root = torch.eye(WIDTH).as_subclass(Uploaded)
    trained = Trained(weights, 2, torch.Generator().manual_seed(5), root, list(weights))
    trained.overrides(torch.float32), trained.overrides(torch.float32), trained.result()
    assert Uploaded.uploads.count(root.shape) == 1
