"""Stage 2 on a toy network: what is sampled, what is trained, what stays as it is, and what it costs."""

import logging
import math
import random
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from trce_ops.closed_form.erase import EraseSettings, erase
from trce_ops.delta.file import save_delta
from trce_ops.delta.low_rank import ContextMap
from trce_ops.files import disk_cache
from trce_ops.text.captions import BENIGN_CAPTIONS, COMPARISONS
from trce_ops.text.concepts import parse_concepts
from trce_ops.text.spelling import mentions
from trce_ops.tuning import objective
from trce_ops.tuning.data import collect, draw_plans
from trce_ops.tuning.factors import Trained
from trce_ops.tuning.losses import drift, hinge, position, tau_hinge
from trce_ops.tuning.objective import PredictionGaps, Term, terms
from trce_ops.tuning.prompts import Request, draw_prompts, encode_prompts
from trce_ops.tuning.settings import PAPER, QUICK, TuningError
from trce_ops.tuning.text_batch import Texts
from trce_ops.tuning.train import backward, learning_rate
from trce_ops.tuning.trajectories import OutOfMemory, Predictor, draw_plan, follow
from trce_ops.tuning.tune import TunableModel, request_of, tune, tune_delta

K, V = "block.attn2.to_k.weight", "block.attn2.to_v.weight"
SMALL = replace(
    QUICK,
    steps=6,
    trajectories=6,
    draws=2,
    empty_trajectories=2,
    empty_draws=3,
    empty_batch=2,
    keep_trajectories=3,
    keep_draws=3,
    keep_batch=2,
    sampling_steps=6,
    batch=3,
    rank=2,
    unconditional=0.5,
    words=0,
)
SIGMAS = (14.0, 9.0, 5.0, 3.0, 1.5, 0.7, 0.0)


class ToyDenoiser:
    """One self- and one cross-attention over 3 x 3 pixels of 4 channels, for text of width 24."""

    shape = (4, 3, 3)
    dtype = torch.float32
    short = torch.OutOfMemoryError("toy")

    def __init__(self, memory=1000):
        noise = torch.Generator().manual_seed(1)
        shapes = {
            "block.attn1.to_q.weight": (8, 4),
            "block.attn1.to_k.weight": (8, 4),
            "block.attn1.to_v.weight": (8, 4),
            "block.attn1.to_out.0.weight": (4, 8),
            "block.attn2.to_q.weight": (8, 4),
            K: (8, 24),
            V: (4, 24),
            "block.ff.weight": (4, 4),
        }
        self.weights = {name: torch.randn(shape, generator=noise) / shape[1] ** 0.5 for name, shape in shapes.items()}
        self.memory = memory  # pictures that fit at a time
        self.at_once = 400
        self.evaluations = self.largest = 0
        self.overridden = set()

    def schedule(self, steps):
        assert steps == len(SIGMAS) - 1
        return torch.tensor(SIGMAS)

    def noise(self, n, generator, sigma):
        return sigma * torch.randn(n, 4, 3, 3, generator=generator)

    def __call__(self, x, sigma, texts, overrides):
        if len(x) > self.memory:
            raise self.short
        assert len(x) == len(sigma) == len(texts)
        self.evaluations += len(x)
        self.largest = max(self.largest, len(x))
        self.overridden |= set(overrides)
        w = {**self.weights, **overrides}
        h = (x / (1 + sigma.view(-1, 1, 1, 1) ** 2) ** 0.5).flatten(2).mT  # (n, 9, 4)
        for name, text in (("attn1", None), ("attn2", texts.sequence)):
            q, k, v = (w[f"block.{name}.to_{p}.weight"] for p in "qkv")
            text = h if text is None else text
            attention = (h @ q.mT @ (text @ k.mT).mT / 8**0.5).softmax(-1)
            out = attention @ (text @ v.mT)
            h = h + (out @ w["block.attn1.to_out.0.weight"].mT if name == "attn1" else out)
        return (h @ w["block.ff.weight"].mT).mT.reshape(x.shape)


def lend(denoiser, fingerprint="toy model"):
    """The toy as a host lends it, with a note of every time it is opened and closed."""
    log = []

    @contextmanager
    def open_toy():
        log.append("open")
        try:
            yield denoiser
        finally:
            log.append("closed")

    return TunableModel(fingerprint, (K, V), open_toy), log


@pytest.fixture
def delta(encoder):
    pairs, few = parse_concepts("gun -> cake\nrifle -> bread"), BENIGN_CAPTIONS[::20]
    settings = EraseSettings(templates=False)
    return erase(pairs, ("a dog", "water"), {"context": encoder}, settings, family="sd1", captions=few)[0]


def prompts_of(delta, encoder, settings, noise, **changes):
    request = replace(request_of(delta), **changes)
    return encode_prompts(*draw_prompts(request, settings, noise), {"context": encoder}, lambda *_: None)


def tuned_on(delta, encoder, model, settings, **options):
    maps = {"context": delta.context_map}
    return tune(request_of(delta), {"context": encoder}, model, maps, settings, **options)


@pytest.fixture
def model():
    return lend(ToyDenoiser())[0]


def stage_2(weights, tuned, D):
    """All weights of a tuned model, which then reads the prompts as they are."""
    changed = {name: W + W @ D if name in (K, V) else W for name, W in weights.items()}
    for module, change in tuned.items():
        changed[f"{module}.weight"] = changed[f"{module}.weight"] + change.dense()
    return changed


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_steps_are_drawn_among_the_early_ones_and_the_prompts_take_turns():
    plan = draw_plan(4, 10, 3, 7, generator())
    assert sorted(plan.prompts.bincount().tolist()) == [2, 2, 3, 3]
    for steps in plan.steps.tolist():
        assert len(set(steps)) == 3 and steps == sorted(steps) and 0 <= steps[0] and steps[-1] < 7
    assert plan.lengths.tolist() == [steps[-1] + 1 for steps in plan.steps.tolist()]


def test_the_papers_300_steps_need_at_most_6000_evaluations_of_data():
    counts = [draw_plans(100, 0, PAPER, generator(seed)).evaluations for seed in range(5)]
    assert max(counts) <= 6000
    plans = draw_plans(100, 0, PAPER, generator())
    assert plans.erase.steps.numel() == 300 == PAPER.steps * PAPER.batch  # every point is used once
    assert plans.empty.steps.numel() == 1200 == PAPER.steps * PAPER.empty_batch
    assert plans.erase.steps.max() <= 25


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_points_are_of_their_own_step_and_hold_the_predictions_that_were_made_there(guidance):
    """Against a sampler that follows one trajectory at a time to its very end."""
    denoise = ToyDenoiser()
    noise = generator(3)
    contexts, empty = (Texts(torch.randn(n, 77, 24, generator=noise)) for n in (3, 1))
    plan = draw_plan(3, 5, 2, 5, noise)
    x = denoise.noise(5, noise, torch.tensor(SIGMAS[0]))
    predict = Predictor(denoise, 2)
    points = follow(predict, plan, torch.tensor(SIGMAS), x.clone(), contexts, empty, guidance)
    of_empty = plan.lengths.sum() if guidance != 1 else plan.steps.numel()  # a distilled model is sampled without it
    assert predict.evaluations == denoise.evaluations == int(plan.lengths.sum() + of_empty)
    assert denoise.largest == 2

    found = 0
    for i in range(5):
        y = x[i : i + 1].clone()
        for step in range(6):
            sigma = torch.tensor(SIGMAS[step : step + 1])
            e, e_u = (denoise(y, sigma, c, {}) for c in (contexts[plan.prompts[i : i + 1]], empty))
            if step in plan.steps[i]:
                (row,) = [r for r in range(len(points)) if torch.allclose(points.x[r], y[0], atol=1e-4)]
                assert points.sigma[row] == SIGMAS[step]
                assert points.prompts[row] == plan.prompts[i]
                torch.testing.assert_close(points.e[row], e[0], rtol=0, atol=1e-4)
                torch.testing.assert_close(points.e_u[row], e_u[0], rtol=0, atol=1e-4)
                found += 1
            guided = e_u + guidance * (e - e_u)
            y = y + (SIGMAS[step + 1] - SIGMAS[step]) * guided
    assert found == len(points) == 10


def test_counters_agree_with_the_plan_and_with_the_network(delta, encoder):
    denoiser = ToyDenoiser()
    tuning = tuned_on(delta, encoder, lend(denoiser)[0], SMALL)
    g = generator(SMALL.seed)
    contexts = prompts_of(delta, encoder, SMALL, g)
    assert tuning.data_evaluations == draw_plans(len(contexts.neg), len(contexts.keep), SMALL, g).evaluations
    assert tuning.train_evaluations == SMALL.steps * (2 * 3 + 2 + 2)
    assert denoiser.evaluations == tuning.data_evaluations + tuning.train_evaluations


@pytest.mark.parametrize("rank", [2, 0])
@pytest.mark.parametrize("loss", ["tau", "hinge"])
def test_a_prediction_moves_to_the_safe_side_and_no_further_than_the_loss_asks(rank, loss):
    """One point, trained alone: it comes up to where the loss ends, and there the gradient ends too."""
    noise = generator(4)
    denoise = ToyDenoiser()
    x, sigma = denoise.noise(1, noise, torch.tensor(5.0)), torch.tensor([5.0])
    neg, safe, empty = (Texts(torch.randn(1, 77, 24, generator=noise)) for _ in range(3))
    e_neg, e_safe, e_u = references = tuple(denoise(x, sigma, c, {}) for c in (neg, safe, empty))

    def ask(e, e_neg, e_safe, e_u):
        return tau_hinge(e, e_neg, e_safe, 1.2) if loss == "tau" else hinge(e, e_neg, e_safe, e_u, 3.0, 0.01)

    term = Term(x, sigma, neg, references, ask, 1.0)
    trained = Trained({name: W for name, W in denoise.weights.items() if "attn" in name}, rank, noise)
    optimizer = torch.optim.AdamW(trained.parameters, lr=2e-3, weight_decay=0.0)
    predict = Predictor(denoise, 4)
    taus = []
    for _ in range(600):
        optimizer.zero_grad()
        value, e = backward(predict, [term], trained, 1.0)
        taus.append(position(e, e_neg, e_safe).item())
        if value == 0:
            break
        optimizer.step()
    assert value == 0
    assert not any(factor.grad.any() for factor in trained.parameters)
    d = e_safe - e_neg
    # Where the paper's loss ends on the line, from |e - f_safe|^2 - |e - f_unsafe|^2 + margin = 0.
    a_s, a_n = e_safe - e_u, e_neg - e_u
    end = (3.0 * (a_s.square() - a_n.square()).mean() + 0.01 / 3.0) / (2 * d.square().mean())
    goal = 1.2 if loss == "tau" else (end - (d * a_n).mean() / d.square().mean()).item()
    assert taus[0] == pytest.approx(0, abs=1e-5) and goal > 0.1  # rounding: with a graph, other kernels may run
    assert goal <= taus[-1] < goal + 0.1
    assert all(after > before for before, after in zip(taus, taus[1:]))


@pytest.fixture
def prepared(delta, encoder):
    """prepared(settings) -> what a tuning trains on: predictor, contexts, data, and the generator to go on with."""

    def prepare(settings):
        noise = generator(settings.seed)
        predict = Predictor(ToyDenoiser(), 100)
        contexts = prompts_of(delta, encoder, settings, noise)
        plans = draw_plans(len(contexts.neg), len(contexts.keep), settings, noise)
        return predict, contexts, collect(predict, contexts, plans, settings, noise, lambda *_: None), noise

    return prepare


@pytest.mark.parametrize("loss", ["tau", "hinge"])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_step_against_its_loss_written_out(delta, prepared, loss, rows):
    settings = replace(SMALL, loss=loss, steps=1, preserve=3.0)
    predict, contexts, data, noise = prepared(settings)
    (step,) = terms(data, contexts, {"context": delta.context_map}, settings, noise)
    trained = Trained({name: W for name, W in predict.denoise.weights.items() if "attn2" in name}, 0, noise)
    for factor in trained.parameters:
        factor.data += 0.1
    value, e = backward(Predictor(predict.denoise, rows), step, trained, 1.0)

    expected, made = 0.0, []
    for term, kind in zip(step, ("unwanted", "unwanted", "kept", "kept")):
        for i in range(len(term.x)):
            row = slice(i, i + 1)
            made.append(
                predict.denoise(term.x[row], term.sigma[row], term.texts[row], trained.overrides(torch.float32))[0]
            )
            if kind == "kept":
                loss_of_row = (made[-1] - term.references[0][i]).square().mean()
                if loss == "tau":
                    nearest = min(data.erase.sigma.tolist(), key=lambda t: abs(math.log(t / term.sigma[i])))
                    level = data.erase.sigma == nearest
                    unit = (data.e_safe - data.erase.e)[level].square().mean()
                    loss_of_row = loss_of_row / unit
                expected = expected + 3.0 * loss_of_row / len(term.x)
                continue
            e_neg, e_safe, e_u = (reference[i] for reference in term.references)
            if loss == "tau":
                d = e_safe - e_neg
                loss_of_row = (settings.goal - ((made[-1] - e_neg) * d).sum() / (d * d).sum()).clamp(min=0)
            else:
                f_safe, f_unsafe = (e_u + settings.beta * (end - e_u) for end in (e_safe, e_neg))
                apart = (made[-1] - f_safe).square().mean() - (made[-1] - f_unsafe).square().mean()
                loss_of_row = (apart + settings.margin).clamp(min=0)
            expected = expected + 0.5 * loss_of_row / len(term.x)
    grads = [factor.grad.clone() for factor in trained.parameters]
    for factor in trained.parameters:
        factor.grad = None
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(e, torch.stack(made).detach(), rtol=0, atol=1e-5)
    for ours, factor in zip(grads, trained.parameters):
        torch.testing.assert_close(ours, factor.grad, rtol=1e-3, atol=1e-3 * factor.grad.abs().max().item())


def test_what_is_kept_is_measured_by_what_a_concept_changes(prepared):
    *_, data, _ = prepared(SMALL)
    apart = (data.e_safe - data.erase.e).flatten(1).square().mean(1)
    for sigma in data.erase.sigma.unique():
        expected = apart[data.erase.sigma == sigma].mean()
        torch.testing.assert_close(PredictionGaps(data)(sigma[None] * torch.tensor([1.0, 1.01])), expected.expand(2))


def test_the_distances_of_the_unwanted_points_are_computed_once(delta, prepared, monkeypatch):
    _, contexts, data, noise = prepared(SMALL)
    asked = []
    monkeypatch.setattr(objective, "drift", lambda e, kept: asked.append(len(e)) or drift(e, kept))
    assert len(list(terms(data, contexts, {"context": delta.context_map}, SMALL, noise))) == SMALL.steps
    assert asked == [len(data.erase)]  # not at every step


def test_preserve_keeps_the_rest_where_the_unedited_model_has_it(delta, encoder):
    def moved(preserve):
        settings = replace(SMALL, steps=60, learning_rate=1e-2, preserve=preserve)
        tuning = tuned_on(delta, encoder, lend(ToyDenoiser())[0], settings)
        denoise = ToyDenoiser()
        context = prompts_of(delta, encoder, settings, generator(1)).keep
        x = denoise.noise(len(context), generator(9), torch.tensor(5.0))
        sigma = torch.full((len(context),), 5.0)
        tuned = stage_2(denoise.weights, tuning.tuned, delta.context_map.dense())
        kept = denoise(x, sigma, context, {})
        return (denoise(x, sigma, context, tuned) - kept).norm().item()

    assert moved(1000.0) < 0.5 * moved(0.0)


def test_the_learning_rate_rises_and_falls_to_nothing_or_stays():
    falling = [learning_rate(step, replace(QUICK, learning_rate=0.01, decay=True, steps=200)) for step in range(200)]
    assert falling[0] == pytest.approx(0.01 / 20)
    assert falling[:20] == sorted(falling[:20])
    assert falling[19] == max(falling) == pytest.approx(0.01, rel=0.03)
    assert falling[19:] == sorted(falling[19:], reverse=True)
    assert falling[100] == pytest.approx(0.005)
    assert 0 < falling[-1] < 1e-5
    assert {learning_rate(step, PAPER) for step in range(PAPER.steps)} == {1e-6}


def test_with_decay_the_last_steps_change_nothing_any_more(delta, encoder):
    def last(decay):
        changes = tuned_on(delta, encoder, lend(ToyDenoiser())[0], replace(SMALL, steps=60, decay=decay)).changes
        return abs(changes[-1] - changes[-4]) / changes[-1]

    assert last(True) < 1e-3 < 1e-2 < last(False)


def test_zero_steps_are_stage_1_exactly(delta, encoder, tmp_path):
    model, log = lend(ToyDenoiser())
    tuned, report = tune_delta(delta, {"context": encoder}, model, replace(SMALL, steps=0), cache_dir=tmp_path)
    assert tuned is delta
    assert not log
    assert not list(tmp_path.iterdir())
    assert "0 steps" in report.text()


@pytest.mark.parametrize("rank", [2, 0])
@pytest.mark.parametrize("projections", ["paper", "text", "cross", "wide"])
def test_only_the_chosen_projections_change(delta, encoder, projections, rank):
    denoiser = ToyDenoiser()
    before = {name: W.clone() for name, W in denoiser.weights.items()}
    tuned, _ = tune_delta(
        delta, {"context": encoder}, lend(denoiser)[0], replace(SMALL, projections=projections, rank=rank)
    )
    attn1 = {f"block.attn1.to_{p}" for p in ("q", "k", "v", "out.0")}
    attn2 = {f"block.attn2.to_{p}" for p in "qkv"}
    query = {"block.attn2.to_q"}
    expected = {"paper": attn1 | query, "text": attn2 - query, "cross": attn2, "wide": attn1 | attn2}
    assert set(tuned.tuned) == expected[projections]
    assert all(change.dense().any() for change in tuned.tuned.values())
    assert {len(change.factors) for change in tuned.tuned.values()} == ({2} if rank else {1})
    assert all(torch.equal(W, before[name]) and W.grad is None for name, W in denoiser.weights.items())
    assert "block.ff.weight" not in denoiser.overridden
    assert tuned.context_map is delta.context_map


def test_the_papers_loss_trains_too(delta, encoder):
    settings = replace(SMALL, loss="hinge", steps=60, learning_rate=1e-2, decay=False, preserve=1.0, keep=False)
    tuning = tuned_on(delta, encoder, lend(ToyDenoiser())[0], settings)
    assert sum(tuning.losses[-10:]) < 0.8 * sum(tuning.losses[:10])


def test_the_same_seed_gives_the_same_bytes_and_touches_no_global_randomness(delta, encoder, tmp_path):
    torch.manual_seed(3)
    random.seed(3)
    state, state_of_random = torch.get_rng_state(), random.getstate()

    def bytes_of(seed):
        tuned, _ = tune_delta(delta, {"context": encoder}, lend(ToyDenoiser())[0], replace(SMALL, seed=seed))
        save_delta(tuned, tmp_path / "delta")
        return (tmp_path / "delta").read_bytes()

    first = bytes_of(0)
    assert first == bytes_of(0) != bytes_of(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == state_of_random


class Cancelled(BaseException):
    pass


PHASES = (
    "Prompts",
    "Trajectories, unwanted",
    "Trajectories, empty",
    "Trajectories, kept",
    "Tuning",
    "Tuning, position",
)


@pytest.mark.parametrize("phase", PHASES)
def test_cancel_in_every_phase_leaves_no_file_and_the_model_as_it_was(delta, encoder, tmp_path, phase):
    denoiser = ToyDenoiser()
    before = {name: W.clone() for name, W in denoiser.weights.items()}
    model, log = lend(denoiser)

    def cancel(step, done, total):
        if step.startswith(phase):
            raise Cancelled

    with pytest.raises(Cancelled):
        tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path, progress=cancel)
    assert log in ([], ["open", "closed"])
    assert all(torch.equal(W, before[name]) for name, W in denoiser.weights.items())
    assert not list(tmp_path.iterdir())


def test_progress_is_told_at_every_step(delta, encoder, model):
    told = []
    tuned_on(delta, encoder, model, SMALL, progress=lambda *step: told.append(step))
    tuning = [(done, total) for step, done, total in told if step.startswith("Tuning")]
    assert tuning == [(i, SMALL.steps) for i in range(SMALL.steps + 1)]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("toy"), RuntimeError("MPS backend out of memory (...)")])
def test_less_memory_means_smaller_batches_and_the_same_tuning(delta, encoder, caplog, monkeypatch, error):
    whole = tuned_on(delta, encoder, lend(ToyDenoiser())[0], SMALL)
    monkeypatch.setattr(ToyDenoiser, "short", error)
    with caplog.at_level(logging.WARNING):
        halved = tuned_on(delta, encoder, lend(ToyDenoiser(memory=1))[0], SMALL)
    assert "Out of memory" in caplog.text
    assert halved.losses == pytest.approx(whole.losses, rel=5e-2)
    assert halved.data_evaluations == whole.data_evaluations
    with pytest.raises(OutOfMemory, match="'resolution'"):
        tuned_on(delta, encoder, lend(ToyDenoiser(memory=0))[0], SMALL)
    monkeypatch.setattr(ToyDenoiser, "short", RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        tuned_on(delta, encoder, lend(ToyDenoiser(memory=1))[0], SMALL)


def test_memory_that_runs_out_in_training_only_is_noticed_too(delta, encoder):
    class Tight(ToyDenoiser):
        def __call__(self, x, sigma, texts, overrides):
            self.memory = 1 if torch.is_grad_enabled() else 1000
            return super().__call__(x, sigma, texts, overrides)

    whole = tuned_on(delta, encoder, lend(ToyDenoiser())[0], SMALL)
    assert tuned_on(delta, encoder, lend(Tight())[0], SMALL).losses == pytest.approx(whole.losses, rel=5e-2)


def test_gradients_that_overflow_are_scaled_down_and_nan_is_refused(delta, encoder):
    class Half(ToyDenoiser):
        limit = 256.0

        def __call__(self, x, sigma, texts, overrides):
            e = super().__call__(x, sigma, texts, overrides)
            if e.requires_grad:
                e.register_hook(lambda grad: torch.where(grad.abs() > self.limit, torch.inf, grad))
            return e

    whole = tuned_on(delta, encoder, lend(ToyDenoiser())[0], SMALL)
    assert tuned_on(delta, encoder, lend(Half())[0], SMALL).losses == pytest.approx(whole.losses, rel=5e-2)
    Half.limit = -1.0
    with pytest.raises(TuningError, match="'learning_rate'"):
        tuned_on(delta, encoder, lend(Half())[0], SMALL)


AT_LEAST_ONE = ("draws", "empty_draws", "keep_draws", "empty_batch", "keep_batch", "empty_trajectories")
AT_LEAST_ONE += ("keep_trajectories", "sampling_steps")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(loss="mse"), "'loss' is 'mse'"),
        (dict(projections="all"), "'projections'"),
        (dict(rank=-1), "'rank'"),
        (dict(batch=0), "'batch'"),
        (dict(early=1.5), "'early'"),
        *(({name: 0}, f"'{name}' is 0; it must be 1") for name in AT_LEAST_ONE),
    ],
)
def test_settings_that_mean_nothing_are_refused(delta, encoder, model, change, says):
    with pytest.raises(TuningError, match=says):
        tune_delta(delta, {"context": encoder}, model, replace(SMALL, **change))


def test_a_finished_tuning_is_not_done_again(delta, encoder, tmp_path):
    model, log = lend(ToyDenoiser())
    first, report = tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    again, cached = tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    assert log == ["open", "closed"]
    assert cached.cached and not report.cached
    assert "cache" in cached.text()
    assert cached.tuning.losses == report.tuning.losses
    assert cached.tuning.data_evaluations == report.tuning.data_evaluations
    for name, tuned in (("first", first), ("again", again)):
        save_delta(tuned, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path, retrain=True)
    assert len(log) == 4


def test_everything_that_a_tuning_depends_on_makes_it_another(delta, encoder, tmp_path):
    denoiser = ToyDenoiser()
    model, log = lend(denoiser)
    other_model, other_log = lend(denoiser, "another model")
    info = delta.info
    deltas = [
        replace(delta, info=replace(info, concepts=info.concepts[:1])),
        replace(delta, info=replace(info, keep=())),
        replace(delta, info=replace(info, settings={**info.settings, "templates": True})),
        replace(delta, maps={"context": ContextMap(tuple(2 * factor for factor in delta.context_map.factors))}),
    ]
    tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    for other in deltas:
        tune_delta(other, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    tune_delta(delta, {"context": type(encoder)(fingerprint="another")}, model, SMALL, cache_dir=tmp_path)
    for change in (dict(seed=1), dict(steps=5), dict(goal=0.5)):
        tune_delta(delta, {"context": encoder}, model, replace(SMALL, **change), cache_dir=tmp_path)
    tune_delta(delta, {"context": encoder}, other_model, SMALL, cache_dir=tmp_path)
    assert log.count("open") == 9
    assert other_log.count("open") == 1
    assert len(list(tmp_path.iterdir())) == 10


def test_the_delta_of_another_method_can_be_tuned(delta, encoder, model, tmp_path):
    """Its settings have no 'templates'."""
    other = replace(delta, info=replace(delta.info, method="uce", settings={"ridge": 0.5}))
    assert request_of(other).templates
    assert tune_delta(other, {"context": encoder}, model, SMALL, cache_dir=tmp_path)[0].tuned
    assert not request_of(replace(delta, info=replace(delta.info, settings={"templates": False}))).templates


def test_a_spoilt_cache_file_is_said_and_made_again(delta, encoder, tmp_path, caplog):
    model, log = lend(ToyDenoiser())
    tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"spoilt")
    with caplog.at_level(logging.WARNING):
        tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    assert "cannot be used" in caplog.text
    assert log.count("open") == 2
    assert list(tmp_path.iterdir()) == [path]
    tune_delta(delta, {"context": encoder}, model, SMALL, cache_dir=tmp_path)
    assert log.count("open") == 2


def test_the_cache_does_not_grow_without_end(delta, encoder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "FILES", 2)
    for seed in range(4):
        tune_delta(delta, {"context": encoder}, model, replace(SMALL, steps=1, seed=seed), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(disk_cache, "MAX_BYTES", 1)
    tune_delta(delta, {"context": encoder}, model, replace(SMALL, steps=1, seed=9), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # the newest always stays


def test_what_is_kept_is_listed_everyday_and_compared_and_mentions_no_concept(delta, encoder):
    told = []
    tokenize = encoder.tokenize
    encoder.tokenize = lambda text: told.append(text) or tokenize(text)
    settings = replace(SMALL, keep_trajectories=12)
    concepts = parse_concepts("cat -> cake\ncloud -> bread\nwoman -> bread")
    prompts_of(delta, encoder, settings, generator(), pairs=concepts, templates=True)
    kept = told[-12:]
    assert told[-13] == ""
    assert all(("dog" in text) + ("water" in text) == 1 for text in kept[:4])
    assert sum(text in BENIGN_CAPTIONS for text in kept) == sum(text in COMPARISONS for text in kept) == 4
    assert not any(mentions(text, [pair.concept for pair in concepts], plurals=False) for text in kept[4:])
    assert len(set(kept)) == 12


@pytest.mark.parametrize("templates", [True, False])
def test_a_quality_is_unwanted_on_what_is_kept_too(delta, encoder, templates):
    told = []
    tokenize = encoder.tokenize
    encoder.tokenize = lambda text: told.append(text) or tokenize(text)
    request = Request(parse_concepts("red -> blue"), ("a dog", "red"), templates, captions=(["a cat"],))
    prompts_drawn = draw_prompts(request, replace(SMALL, trajectories=8), generator())
    encode_prompts(*prompts_drawn, {"context": encoder}, lambda *_: None)
    unwanted = set(told[: told.index("")])
    together = {f"a dog, {c}" for c in ("red", "blue")} | {f"{c} , a cat" for c in ("red", "blue")}
    if templates:
        assert unwanted > together
        assert len(unwanted) == 2 * 8 and sum(", " in text for text in unwanted) == 8
        assert not any(text.count("red") > 1 for text in unwanted)  # what names the concept is no company
    else:
        assert unwanted == {"red", "blue"}


def test_an_objective_without_the_safe_target_has_no_company(delta):
    request = Request(parse_concepts("red -> blue"), ("a dog",), captions=(["a cat"],), company=False)
    prompts, _ = draw_prompts(request, replace(SMALL, trajectories=30), generator())
    assert prompts and not any("dog" in pair.source or "cat" in pair.source for pair in prompts)


def test_every_concept_is_trained_however_many_there_are(encoder, model):
    names = [f"thing{i}" for i in range(30)]
    pairs, few = parse_concepts("\n".join(f"{name} -> cake" for name in names)), BENIGN_CAPTIONS[::20]
    delta, _ = erase(pairs, (), {"context": encoder}, EraseSettings(templates=False), family="sd1", captions=few)
    settings = model.adapt(SMALL, len(pairs))
    unwanted, _ = draw_prompts(request_of(delta), settings, generator())
    assert settings.trajectories == 30 > SMALL.trajectories and {pair.concept for pair in unwanted} == {*names}
    tuned, _ = tune_delta(delta, {"context": encoder}, model, replace(SMALL, steps=1))
    assert tuned.info.settings["tune_trajectories"] == 30
    assert model.adapt(SMALL, 2) == model.adapt(SMALL)


def test_a_long_keep_list_takes_the_place_of_captions(delta):
    request = Request(delta.info.concepts, tuple(f"word{i}" for i in range(200)), True, captions=(["a house"] * 90,))
    for listed, lines in ((2, 3), (5, 5), (100, 6)):
        _, kept = draw_prompts(
            replace(request, keep=request.keep[:listed]), replace(SMALL, keep_trajectories=9), generator()
        )
        assert len(kept) == 9 and sum("word" in text for text in kept) == lines


def test_a_thing_is_unwanted_alone(delta):
    request = Request(parse_concepts("a dog -> a cat"), ("a bird",), True, captions=(["a house"],))
    prompts, _ = draw_prompts(request, replace(SMALL, trajectories=30), generator())
    assert not any("bird" in pair.source or "house" in pair.source for pair in prompts)


def test_without_keep_prompts_only_the_empty_one_is_kept(delta, encoder):
    contexts = prompts_of(delta, encoder, replace(SMALL, keep=False), generator())
    assert contexts.keep is None
    assert tuned_on(delta, encoder, lend(ToyDenoiser())[0], replace(SMALL, keep=False)).tuned


@pytest.mark.parametrize("rank", [2, 0])
def test_the_delta_holds_what_was_trained_on_the_text_as_stage_1_leaves_it(delta, encoder, monkeypatch, rank):
    """(W + dW) on mapped text, as in training, against W T + dW T on the text itself, as it is applied."""
    finished = []
    result = Trained.result
    monkeypatch.setattr(Trained, "result", lambda self: finished.append(result(self)) or finished[-1])
    tuning = tuned_on(delta, encoder, lend(ToyDenoiser())[0], replace(SMALL, projections="wide", rank=rank))
    denoise = ToyDenoiser()
    context = prompts_of(delta, encoder, SMALL, generator(1)).neg
    x, sigma = denoise.noise(len(context), generator(9), torch.tensor(5.0)), torch.full((len(context),), 5.0)
    trained = {f"{m}.weight": denoise.weights[f"{m}.weight"] + change.dense() for m, change in finished[0].items()}
    in_training = denoise(x, sigma, context.moved({"context": delta.context_map}), trained)
    applied = denoise(x, sigma, context, stage_2(denoise.weights, tuning.tuned, delta.context_map.dense()))
    assert (denoise(x, sigma, context, {}) - applied).abs().max() > 1e-3
    torch.testing.assert_close(applied, in_training, rtol=1e-4, atol=1e-4)


class Enough(BaseException):
    """A run that is long enough to be seen to run."""


@pytest.mark.parametrize(
    ("knob", "ends"),
    [
        ("steps", (0, 10000)),
        ("learning_rate", (0.0, 1.0)),
        ("goal", (0.0, 5.0)),
        ("beta", (0.0, 100.0)),
        ("margin", (0.0, 10.0)),
        ("preserve", (0.0, 100000.0)),
        ("unconditional", (0.0, 1.0)),
        ("early", (0.05, 1.0)),
        ("rank", (0, 256)),
        ("trajectories", (1, 1000)),
        ("batch", (1, 64)),
        ("seed", (0, 0xFFFFFFFF)),
    ],
)
@pytest.mark.parametrize("loss", ["tau", "hinge"])
def test_every_knob_works_at_both_ends_of_its_widget(delta, encoder, model, knob, ends, loss):
    for value in ends:
        told = []

        def progress(*step, told=told):
            told.append(step)
            if len(told) > 40:
                raise Enough

        settings = replace(SMALL, **{"loss": loss, "steps": 3, knob: value})
        try:
            tuning = tuned_on(delta, encoder, model, settings, progress=progress)
        except TuningError as error:
            assert "'learning_rate'" in str(error)
        except Enough:
            assert knob in ("steps", "trajectories")
        else:
            assert len(tuning.losses) == settings.steps
            assert all(factor.isfinite().all() for change in tuning.tuned.values() for factor in change.factors)


@pytest.mark.parametrize(
    "knob", ["learning_rate", "goal", "beta", "margin", "preserve", "guidance", "unconditional", "early", "steps"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_settings_that_are_no_number_are_refused_by_name(delta, encoder, model, knob, value):
    with pytest.raises(TuningError, match=f"'{knob}' is"):
        tuned_on(delta, encoder, model, replace(SMALL, **{knob: value}))
