"""Every method against its paper's equations, written out for one projection at a time."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trce_ops.closed_form import erase as closed_form
from trce_ops.closed_form.erase import EraseSettings
from trce_ops.closed_form.metric import total_gram
from trce_ops.delta.file import load_delta, save_delta
from trce_ops.methods import esd, leace, mace, realera, rece, speed, trce, uce
from trce_ops.methods.registry import METHODS, MethodError, erase_with
from trce_ops.text.captions import BENIGN_CAPTIONS
from trce_ops.text.concepts import parse_concepts
from trce_ops.text.embeddings import EmbeddingPairs, Pooled
from trce_ops.text.tokens import Roles, TokenError, locate
from trce_ops.tuning.data import Contexts, Data
from trce_ops.tuning.factors import TuningError, choose
from trce_ops.tuning.prompts import Request
from trce_ops.tuning.text_batch import Texts
from trce_ops.tuning.trajectories import Points
from trce_ops.tuning.tune import tune, tune_delta

TOY = runpy.run_path(str(Path(__file__).with_name("test_tuning.py")))
ToyDenoiser, lend, SMALL = TOY["ToyDenoiser"], TOY["lend"], TOY["SMALL"]
PAIRS = parse_concepts("gun -> cake\nlong rifle -> bread")
KEEP = ("a dog", "water", "umbrella")
FEW = BENIGN_CAPTIONS[::20]
READERS = ("block.attn2.to_k", "block.attn2.to_v")
QUICK_ONES = {
    "trce": trce.TrceSettings(tuning=SMALL),
    "trce-robust": trce.TrceSettings(tuning=replace(SMALL, projections="blocks", unconditional=0.5, early=1.0)),
    "esd": replace(esd.EsdSettings(), steps=4, trajectories=3, draws=2, sampling_steps=6),
}


ON_UNETS = [name for name in METHODS if name != "erase-anything"]  # see test_erase_anything.py


def weights():
    return {"context": {module: ToyDenoiser().weights[f"{module}.weight"] for module in READERS}}


def erased(method, encoder, settings=None, pairs=PAIRS, keep=KEEP, pooled=None, **options):
    settings = settings or QUICK_ONES.get(method)
    lent = {"weights": weights, "model": lambda resolution: lend(ToyDenoiser())[0], "captions": FEW}
    encoders = {"context": encoder} | ({"pooled": pooled} if pooled else {})
    return erase_with(method, pairs, keep, encoders, settings, family="sd1", **{**lent, **options})


def matrix(delta, dtype=torch.float64):
    """T."""
    return torch.eye(delta.context_map.width, dtype=dtype) + delta.context_map.dense().to(dtype)


def embedding(encoder, text, position):
    return encoder.encode([encoder.tokenize(text)], 77)[0, position].double()


def whole(encoder, text):
    return encoder.encode([encoder.tokenize(text)], 77)[0].double()


def projection(n_out=7, d=24):
    return torch.randn(n_out, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


LAST = {"gun": 1, "cake": 1, "long rifle": 3, "bread": 2, "a dog": 2, "water": 2, "umbrella": 2, "": 0}


def written_out(W, pairs, kept, erase, preserve, ridge):
    """Equation 7 of UCE for one projection: W' = (sum v* c^T + ...) (sum c c^T + ...)^-1, all sums."""
    eye = torch.eye(W.shape[1], dtype=W.dtype)
    numerator, denominator = ridge * W, ridge * eye
    for c, v in pairs:
        numerator, denominator = numerator + erase * torch.outer(v, c), denominator + erase * torch.outer(c, c)
    for k in kept:
        numerator, denominator = (
            numerator + preserve * torch.outer(W @ k, k),
            denominator + preserve * torch.outer(k, k),
        )
    return numerator @ torch.linalg.inv(denominator)


def uce_of(W, encoder, erase=1.0, preserve=1.0, ridge=0.5):
    said = [(pair.concept, pair.safe) for pair in PAIRS]
    pairs = [(embedding(encoder, c, LAST[c]), W @ embedding(encoder, s, LAST[s])) for c, s in said]
    return written_out(W, pairs, [embedding(encoder, k, LAST[k]) for k in KEEP], erase, preserve, ridge)


def test_uce_edits_every_projection_as_its_equation_says(encoder):
    W = projection()
    delta, report = erased("uce", encoder)
    torch.testing.assert_close(W @ matrix(delta), uce_of(W, encoder), atol=1e-5, rtol=0)
    assert delta.context_map.rank == 2
    other, _ = erased("uce", encoder, uce.UceSettings(erase=3.0, preserve=0.2, ridge=0.01))
    torch.testing.assert_close(W @ matrix(other), uce_of(W, encoder, 3.0, 0.2, 0.01), atol=1e-5, rtol=0)
    assert other.info.measured["moved"] < delta.info.measured["moved"] < 1


def test_uce_without_a_replacement_aims_at_the_start_token(encoder):
    W = projection()
    delta, _ = erased("uce", encoder, pairs=parse_concepts("gun"), keep=())
    gun, start = embedding(encoder, "gun", 1), embedding(encoder, "", 0)
    expected = written_out(W, [(gun, W @ start)], [], 1.0, 1.0, 0.5)
    torch.testing.assert_close(W @ matrix(delta), expected, atol=1e-5, rtol=0)


def test_uce_expanded_erases_the_phrases_too(encoder):
    delta, _ = erased("uce", encoder, uce.UceSettings(expand=True), pairs=parse_concepts("gun"))
    assert delta.context_map.rank == 6


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_rece_finds_what_brings_the_concept_back_and_erases_it(encoder, rounds):
    """All projections edited in turn, as the authors do it, without any T."""
    old = [W.double() for W in weights()["context"].values()]
    new = [uce_of(W, encoder) for W in old]
    tokens = torch.cat([whole(encoder, pair.concept) for pair in PAIRS])
    goals = torch.cat([whole(encoder, pair.safe) for pair in PAIRS])
    kept = [*(embedding(encoder, k, LAST[k]) for k in KEEP), *whole(encoder, "")]
    eye = torch.eye(24, dtype=torch.float64)
    for _ in range(rounds):
        A = sum(W.mT @ W for W in new) + 0.1 * eye
        attacks = [torch.linalg.solve(A, sum(W.mT @ W_old @ c for W, W_old in zip(new, old))) for c in tokens]
        new = [written_out(W, [(a, W @ s) for a, s in zip(attacks, goals)], kept, 1.0, 0.1, 0.1) for W in new]
    delta, report = erased("rece", encoder, rece.ReceSettings(rounds=rounds))
    for W, expected in zip(old, new):
        torch.testing.assert_close(W @ matrix(delta), expected, atol=1e-4, rtol=0)


def test_the_embedding_that_rece_finds_is_the_best_one():
    noise = torch.Generator().manual_seed(2)
    old = [torch.randn(6, 9, generator=noise, dtype=torch.float64) for _ in range(3)]
    T, c = (torch.randn(shape, generator=noise, dtype=torch.float64) for shape in ((9, 9), (1, 9)))

    def loss(x):
        return sum(((W @ T @ x[0] - W @ c[0]) ** 2).sum() for W in old) + 0.3 * (x**2).sum()

    G = total_gram(old, 9)
    found = rece.resurrect(c, T, G, 0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(found), found)
    assert gradient.abs().max() < 1e-9


def test_mace_moves_what_two_sentences_have_in_common_and_not_the_concept(encoder, monkeypatch):
    sentences = __import__("trce_ops.text.prompts", fromlist=["TEMPLATES"])
    templates = ("{}", "a photo of {} at sea")
    monkeypatch.setattr(sentences, "TEMPLATES", templates)
    W, pairs = projection(), []
    for concept, safe in (("gun", "cake"), ("long rifle", "bread")):
        for template in templates:
            source, target = (encoder.tokenize(template.format(text)) for text in (concept, safe))
            c, s = whole(encoder, template.format(concept)), whole(encoder, template.format(safe))
            own = [set(encoder.tokenize(text)[1 : LAST[text] + 1]) for text in (concept, safe)]
            words = [[p for p in range(77) if ids[p] not in mine] for ids, mine in zip((source, target), own)]
            texts = [[p for p in w if p < ids.index(1)] for w, ids in zip(words, (source, target))]
            ends = [ids.index(1) for ids in (source, target)]
            pairs += [(c[p], W @ s[q]) for p, q in zip(*texts)] + [(c[ends[0]], W @ s[ends[1]])]
            pairs += [(c[p], W @ s[max(p, ends[1])]) for p in range(ends[0] + 1, 77) if p > ends[1]]
            pairs += [(c[p], W @ s[ends[1]]) for p in range(ends[0] + 1, 77) if p <= ends[1]]
    kept = closed_form.keep_moments(
        KEEP, ["gun", "long rifle"], templates, encoder, None, lambda *_: None, FEW
    ).values()
    P = sum(part.moment for part in kept) / 2
    n, eye = len(pairs), torch.eye(24, dtype=torch.float64)
    numerator = 0.2 * W @ P + 0.05 * W + sum(torch.outer(v, c) for c, v in pairs) / n
    denominator = 0.2 * P + 0.05 * eye + sum(torch.outer(c, c) for c, _ in pairs) / n
    delta, _ = erased("mace", encoder, mace.MaceSettings(preserve=0.2, ridge=0.05))
    torch.testing.assert_close(W @ matrix(delta), numerator @ torch.linalg.inv(denominator), atol=1e-4, rtol=0)


def test_mace_aligns_sentences_of_different_lengths():
    eot, a, photo, of, gun, long, sea = range(1, 8)
    source = locate((0, a, photo, of, long, gun, a, sea, eot, eot, eot, eot), (long, gun), eot)
    target = locate((0, a, photo, of, gun, a, sea, eot, eot, eot, eot, eot), (gun,), eot)
    found = {p: q for _, p, q, _ in mace.common(source, target)}
    assert found == {0: 0, 1: 1, 2: 2, 3: 3, 6: 5, 7: 6, 8: 7, 9: 9, 10: 10, 11: 11}
    back = {p: q for _, p, q, _ in mace.common(target, source)}
    assert back == {0: 0, 1: 1, 2: 2, 3: 3, 5: 6, 6: 7, 7: 8, 8: 8, 9: 9, 10: 10, 11: 11}


def test_realera_draws_neighbours_at_the_distances_it_is_told(encoder):
    noise = torch.Generator().manual_seed(6)
    c, s = torch.randn(2, 5, 24, generator=noise, dtype=torch.float64)
    pairs = EmbeddingPairs(c, s, torch.arange(1.0, 6.0), ("first_eot",) * 5, tuple("abcde"), {})
    mined, far = realera.mine(pairs, realera.RealEraSettings(neighbours=40, near=0.8, far=0.3))
    assert torch.equal(mined.sources[:5], c)
    assert torch.equal(mined.targets.view(41, 5, 24), s.expand(41, 5, 24))
    assert torch.equal(mined.weights.view(41, 5), pairs.weights.expand(41, 5))
    for points, low, high in ((mined.sources[5:], 0.8, 1.0), (far, 0.3, 0.8)):
        cosine = torch.cosine_similarity(points.view(40, 5, 24), c, dim=2)
        assert low - 1e-9 <= cosine.min() < low + 0.05 and high - 0.05 < cosine.max() <= high + 1e-9
        torch.testing.assert_close(points.norm(dim=1).view(40, 5), c.norm(dim=1).expand(40, 5))


def test_realera_without_neighbours_is_the_closed_form_of_trce(encoder):
    delta, _ = erased("realera", encoder, realera.RealEraSettings(neighbours=0))
    other, _ = erased("trce-closed-form", encoder, trce.TrceSettings(EraseSettings(preserve=3.0, metric=False)))
    torch.testing.assert_close(matrix(delta), matrix(other))


def test_realera_erases_the_neighbourhood(encoder):
    alone, _ = erased("realera", encoder, realera.RealEraSettings(neighbours=0))
    mined, _ = erased("realera", encoder, realera.RealEraSettings(beyond=0.0))
    c, s = embedding(encoder, "gun", 2), embedding(encoder, "cake", 2)
    near = realera.around(c.expand(50, -1), torch.full((50,), 0.95), torch.Generator().manual_seed(9))
    left = [(near @ matrix(delta).mT - s).norm(dim=1).mean() for delta in (alone, mined)]
    assert left[1] < left[0]


def speed_problem(n=2, m=9, d=16):
    noise = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(shape, generator=noise, dtype=torch.float64)

    return draw(7, d), draw(n, d), draw(n, d), draw(m, d), draw(3, d)


PLAIN_SPEED = speed.SpeedSettings(filtered=False, augment=0, threshold=1e-9, preserve=0.7)


def speed_change(problem, settings=PLAIN_SPEED):
    W, c, s, kept, empty = problem
    Z = speed.unconstrained(c)
    up, down = speed.solve(W, c, s, Z, kept, empty, settings, torch.Generator().manual_seed(0))
    return up @ down


def test_speed_changes_nothing_that_is_kept():
    W, c, s, kept, empty = problem = speed_problem()
    X = speed_change(problem)
    assert ((W + X) @ kept.mT - W @ kept.mT).abs().max() < 1e-9
    assert ((W + X) @ empty.mT - W @ empty.mT).abs().max() < 1e-9
    before, after = ((V @ c.mT - W @ s.mT).norm() for V in (W, W + X))
    assert after < before


def test_speed_is_the_formula_of_its_paper():
    W, c, s, kept, empty = problem = speed_problem()
    eye = torch.eye(16, dtype=torch.float64)
    C1, Cs, C0 = c.mT @ c / 2, s.mT @ c / 2, kept.mT @ kept / 9
    U, sizes, _ = torch.linalg.svd(C0)
    P = U[:, sizes < 1e-9] @ U[:, sizes < 1e-9].mT
    M, K2 = torch.linalg.inv(C1 @ P + 0.7 * eye), empty.mT
    middle = torch.linalg.inv(K2.mT @ P @ M @ K2)
    expected = W @ (Cs - C1) @ P @ (eye - M @ K2 @ middle @ K2.mT @ P) @ M
    torch.testing.assert_close(speed_change(problem), expected, atol=1e-9, rtol=0)


def test_speed_is_the_minimum_that_its_constraints_allow():
    W, c, s, kept, empty = problem = speed_problem()

    def loss(X):
        return ((c @ (W + X).mT - s @ W.mT) ** 2).sum() / len(c) + 0.7 * (X**2).sum()

    X = speed_change(problem).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(X), X)
    held = torch.cat([kept, empty])  # the gradient has no part that the constraints leave free
    free = torch.eye(16, dtype=torch.float64) - torch.linalg.pinv(held) @ held
    assert (gradient @ free).abs().max() < 1e-9


def test_speed_filters_and_augments_what_is_kept():
    W, c, s, kept, _ = speed_problem()
    rows = speed.influential(kept, W, PLAIN_SPEED)
    assert torch.equal(rows, kept)
    moves = (kept @ W.mT).norm(dim=1)
    filtered = speed.influential(kept, W, replace(PLAIN_SPEED, filtered=True))
    assert torch.equal(filtered, kept[moves >= moves.mean()]) and 0 < len(filtered) < len(kept)
    more = speed.augmented(kept, W, replace(PLAIN_SPEED, augment=4), torch.Generator().manual_seed(0))
    noise = more - kept.repeat(4, 1)
    smallest = torch.linalg.svdvals(W)[-1]
    torch.testing.assert_close((noise @ W.mT).norm(dim=1), smallest * noise.norm(dim=1))
    assert torch.linalg.matrix_rank(noise) == 1


def test_speed_gives_each_value_projection_its_own_change(encoder):
    settings = speed.SpeedSettings(threshold=0.5)
    delta, _ = erased("speed", encoder, settings)
    assert delta.context_map.rank == 0
    assert set(delta.tuned) == {"block.attn2.to_v"}
    both, _ = erased("speed", encoder, replace(settings, params="KV"))
    assert set(both.tuned) == set(READERS)
    gun, cake = embedding(encoder, "gun", 1), embedding(encoder, "cake", 1)
    W = weights()["context"]["block.attn2.to_v"].double()
    X = delta.tuned["block.attn2.to_v"].dense().double()
    assert ((W + X) @ gun - W @ cake).norm() < (W @ gun - W @ cake).norm()


def test_speed_on_all_tokens_leaves_out_a_start_token_and_nothing_else():
    text, pooled = Roles((1,), 2, ()), Roles((), 0, (), sot=())
    assert [source for _, source, _, _ in speed.all_but_start(text, text)] == [1, 2]
    assert [source for _, source, _, _ in speed.all_but_start(pooled, pooled)] == [0]


def classes(k=2, d=10, m=30):
    noise = torch.Generator().manual_seed(8)
    x = torch.randn(2 * k * m + 2 * m, d, generator=noise, dtype=torch.float64) + 3
    labels = [*("ab"[i] for i in range(k) for _ in range(2 * m)), *[leace.NEUTRAL] * (2 * m)]
    roles = ["keyword", "first_eot"] * (len(x) // 2)
    for row, (label, role) in enumerate(zip(labels, roles)):
        x[row, 0] += 4 * (label == "a")
        x[row, 1] += 2 * (label == "b")
        x[row, 2] += 5 * (role == "keyword")
    return leace.Classes(x, tuple(roles), tuple(labels))


@pytest.mark.parametrize("affine", [True, False])
def test_after_leace_no_linear_classifier_can_tell_the_concepts(affine):
    """Class means are equal, so that the best linear classifier by least squares is a constant."""
    given = classes()
    T, _ = leace.fit(given, leace.LeaceSettings(affine=affine))
    for role in ("keyword", "first_eot"):
        for label in "ab":
            y = given.rows(role) @ T.mT
            mine = y[[z == label for r, z in zip(given.roles, given.labels) if r == role]]
            torch.testing.assert_close(mine.mean(0), y.mean(0), atol=1e-8, rtol=0)
        mapped = given.rows(role) @ T.mT
        z = torch.tensor([float(z == "a") for r, z in zip(given.roles, given.labels) if r == role], dtype=T.dtype)
        X = torch.cat([mapped, torch.ones(len(mapped), 1, dtype=T.dtype)], 1)
        guess = X @ torch.linalg.lstsq(X, z[:, None], driver="gelsd").solution[:, 0]
        assert (guess - z.mean()).abs().max() < 1e-6
    assert min(mean.norm() for mean in leace.means(given)) > 1


def test_leace_is_the_whitened_projection_of_its_paper():
    given = classes(k=1)
    one = leace.Classes(given.rows("keyword"), ("keyword",) * 60, tuple(["a"] * 30 + [leace.NEUTRAL] * 30))
    x, z = one.x, torch.tensor([1.0] * 30 + [0.0] * 30, dtype=torch.float64)
    mu = x.mean(0)
    covariance = (x - mu).mT @ (x - mu) / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    whiten, unwhiten = (vectors @ torch.diag(values**p) @ vectors.mT for p in (-0.5, 0.5))
    u = whiten @ ((x - mu).mT @ (z - z.mean()) / len(x))
    u /= u.norm()
    Q = unwhiten @ torch.outer(u, u) @ whiten
    T, _ = leace.fit(one, leace.LeaceSettings(shrinkage=0.0, affine=False))
    torch.testing.assert_close(T, torch.eye(10, dtype=torch.float64) - Q, atol=1e-8, rtol=0)


def test_the_constant_term_of_leace_is_exact_behind_a_layer_norm():
    given = classes()
    x = torch.nn.functional.layer_norm(given.x, (10,)) * torch.linspace(0.5, 2, 10) + 0.3  # of sum x / gain, not 0
    normed = leace.Classes(x, given.roles, given.labels)
    with_term, misses = leace.fit(normed, leace.LeaceSettings())
    without, _ = leace.fit(normed, leace.LeaceSettings(affine=False))
    Q = torch.eye(10, dtype=torch.float64) - without
    best = x - (x - x.mean(0)) @ Q.mT
    assert misses < 0.02
    assert (x @ with_term.mT - best).norm() < 0.05 * (x @ without.mT - best).norm()


def test_leace_on_prompts_brings_every_concept_onto_the_rest(encoder):
    delta, report = erased("leace", encoder)
    assert delta.info.measured["apart"] < 1e-4
    assert 2 <= delta.context_map.rank <= 4  # a direction for each concept and role


def test_esd_is_negative_guidance():
    noise = torch.Generator().manual_seed(3)
    e, e_c, e_safe, e_u = torch.randn(4, 5, 4, 3, 3, generator=noise)
    found = esd.negative_guidance(e, e_c, e_safe, e_u, 2.0)
    for i in range(5):
        goal = e_u[i] - 2.0 * (e_c[i] - e_u[i])
        assert torch.isclose(found[i], ((e[i] - goal) ** 2).mean())


def test_esd_trains_on_the_unwanted_prompts_alone_and_at_all_noise_levels():
    noise = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=noise)  # noqa: E731
    points = Points(draw(6, 4, 3, 3), torch.arange(1.0, 7.0), torch.tensor([0, 1, 0, 1, 0, 1]), *draw(2, 6, 4, 3, 3))
    data = Data(points, draw(6, 4, 3, 3), points, None)
    contexts = Contexts(Texts(draw(2, 77, 24)), Texts(draw(2, 77, 24)), Texts(draw(1, 77, 24)), None)
    settings = esd.EsdSettings(steps=6).tuning()
    steps = list(esd.objective(2.0)(data, contexts, {}, settings, torch.Generator().manual_seed(0)))
    assert [len(step) for step in steps] == [1] * 6
    assert sorted(step[0].sigma.item() for step in steps) == [1, 2, 3, 4, 5, 6]
    for (term,) in steps:
        i = int(term.sigma) - 1
        assert torch.equal(term.texts.sequence[0], contexts.neg.sequence[points.prompts[i]])
        e = draw(1, 4, 3, 3)
        goal = points.e_u[i] - 2.0 * (points.e[i] - points.e_u[i])
        assert torch.isclose(term.value(e, 0), ((e[0] - goal) ** 2).mean())


def test_esd_brings_the_loss_down_and_changes_keys_and_values_alone(encoder):
    settings = replace(QUICK_ONES["esd"], steps=150, learning_rate=1e-3, trajectories=6, draws=2)
    delta, report = erased("esd", encoder, settings)
    assert set(delta.tuned) == set(READERS) and delta.context_map.rank == 0
    assert report.evaluations > 150
    tuning = tune(
        Request(PAIRS, KEEP, company=False),
        {"context": encoder},
        lend(ToyDenoiser())[0],
        {"context": delta.context_map},
        settings.tuning(),
        objective=esd.objective(settings.negative_guidance),
    )
    assert all(torch.equal(delta.tuned[m].dense(), tuning.tuned[m].dense()) for m in READERS)
    points = 6 * 2  # each comes once in a round
    first, last = (sum(part) / points for part in (tuning.losses[:points], tuning.losses[-points:]))
    assert last < 0.8 * first


def test_esd_without_steps_claims_no_erasure(encoder):
    delta, report = erased("esd", encoder, replace(QUICK_ONES["esd"], steps=0))
    assert not delta.tuned and report.details == "0 steps of tuning: nothing was trained."


@pytest.mark.parametrize("method, prefix", [("esd", ""), ("trce", "tune_")])
def test_a_delta_says_how_a_distilled_model_was_sampled(encoder, method, prefix):
    model = replace(lend(ToyDenoiser())[0], sampled={"guidance": 1.0})
    distilled, _ = erased(method, encoder, model=lambda resolution: model)
    other, _ = erased(method, encoder)
    assert distilled.info.settings[f"{prefix}guidance"] == 1 != other.info.settings[f"{prefix}guidance"]


def test_esd_pushes_away_from_the_concept_alone(encoder):
    """Without a target in the same company, what is kept would be erased with it."""
    told, tokenize = [], encoder.tokenize
    encoder.tokenize = lambda text: told.append(text) or tokenize(text)
    erased("esd", encoder, pairs=parse_concepts("Van Gogh -> a painting"), keep=("a dog",))
    assert told and not any("a dog" in text for text in told)


def test_projections_that_a_model_has_not_are_refused_before_anything_is_computed(encoder):
    model, log = lend(ToyDenoiser())
    model = replace(model, sets={"text": r"attn2\.to_[kv]"})
    told, tokenize = [], encoder.tokenize
    encoder.tokenize = lambda text: told.append(text) or tokenize(text)
    settings = trce.TrceSettings(tuning=replace(SMALL, projections="paper"))
    with pytest.raises(TuningError, match="'projections' is 'paper', which this model has not; choose one of text"):
        erased("trce", encoder, settings, model=lambda resolution: model)
    assert not told and not log


def test_a_delta_is_tuned_once(encoder):
    both, _ = erased("trce", encoder)
    with pytest.raises(TuningError, match="tuned already"):
        tune_delta(both, {"context": encoder}, lend(ToyDenoiser())[0], SMALL)


def test_trce_is_what_the_node_does(encoder):
    ours, _ = erased("trce-closed-form", encoder)
    expected, _ = closed_form.erase(PAIRS, KEEP, {"context": encoder}, EraseSettings(), family="sd1", captions=FEW)
    assert torch.equal(ours.context_map.dense(), expected.context_map.dense())
    assert ours.info.settings == expected.info.settings
    both, report = erased("trce", encoder)
    tuned = tune_delta(expected, {"context": encoder}, lend(ToyDenoiser())[0], SMALL)[0].tuned
    assert all(torch.equal(both.tuned[m].dense(), tuned[m].dense()) for m in tuned)
    assert report.evaluations > 0
    paper, _ = erased("trce-closed-form-paper", encoder)
    assert paper.info.settings["weight_keyword"] == 0 and paper.info.settings["weight_first_eot"] == 1


@pytest.mark.parametrize("method", ON_UNETS)
def test_the_same_inputs_give_the_same_file_which_can_be_read(encoder, method, tmp_path):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for name in "ab":
        delta, report = erased(method, encoder)
        save_delta(delta, tmp_path / name)
        torch.rand(3)
        torch.set_rng_state(state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = load_delta(tmp_path / "a")
    assert read.info == delta.info and read.info.method == method
    assert choose(sorted(ToyDenoiser().weights), "text") == tuple(f"{m}.weight" for m in sorted(READERS))
    assert set(read.tuned) <= set(READERS) or method == "trce-robust"  # which trains all that there is
    assert METHODS[method].paper in report.text()


@pytest.mark.parametrize("method", ON_UNETS)
def test_no_method_touches_global_randomness(encoder, method):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    erased(method, encoder)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ON_UNETS)
@pytest.mark.parametrize("count", [1, 10])
def test_any_number_of_concepts(encoder, method, count):
    pairs = parse_concepts("\n".join(f"thing{i} -> cake" for i in range(count)))
    delta, report = erased(method, encoder, pairs=pairs)
    changes = [delta.context_map.dense(), *(change.dense() for change in delta.tuned.values())]
    assert all(change.isfinite().all() for change in changes) and any(change.any() for change in changes)
    assert len(delta.info.concepts) == count


@pytest.mark.parametrize("method", ["uce", "rece", "mace", "realera", "speed", "leace"])
def test_a_hundred_concepts(encoder, method, monkeypatch):
    sentences = __import__("trce_ops.text.prompts", fromlist=["TEMPLATES"])
    monkeypatch.setattr(sentences, "TEMPLATES", sentences.TEMPLATES[:2])
    pairs = parse_concepts("\n".join(f"thing{i} -> cake" for i in range(100)))
    delta, _ = erased(method, encoder, pairs=pairs)
    assert delta.context_map.dense().isfinite().all()


@pytest.mark.parametrize("method", ON_UNETS)
def test_nothing_in_its_place_and_nothing_to_keep(encoder, method):
    delta, _ = erased(method, encoder, pairs=parse_concepts("gun\nblood"), keep=())
    assert delta.context_map.dense().isfinite().all()


@pytest.mark.parametrize("method", ON_UNETS)
def test_cancel_goes_through(encoder, method):
    class Cancelled(BaseException):
        pass

    def run(stop):
        calls = []

        def told(*_):
            calls.append(0)
            if len(calls) == stop:
                raise Cancelled

        erased(method, encoder, progress=told)
        return len(calls)

    total = run(0)
    assert total > 1
    for stop in {1, total // 2, total}:
        with pytest.raises(Cancelled):
            run(stop)


@pytest.mark.parametrize("method", ["uce", "rece", "mace", "realera", "leace"])
def test_the_pooled_vector_gets_a_map_of_its_own(encoder, method):
    encoder.pooled_width = 24
    encoder.pool = lambda rows: torch.stack([encoder.encode([ids], 77)[0, ids.index(1)] for ids in rows])
    lent = {kind: {f"model.{kind}.to_v": projection().float()} for kind in ("context", "pooled")}
    delta, _ = erased(method, encoder, pooled=Pooled(encoder), weights=lambda: lent)
    gun, cake = (encoder.pool([encoder.tokenize(text)]) for text in ("gun", "cake"))
    erased_gun = delta.maps["pooled"].apply(gun)
    assert (erased_gun - cake).norm() < (gun - cake).norm()


@pytest.mark.parametrize("method", ["rece", "speed"])
def test_the_weights_are_loaded_once_for_all_kinds_of_text(encoder, method):
    encoder.pooled_width = 24
    encoder.pool = lambda rows: torch.stack([encoder.encode([ids], 77)[0, ids.index(1)] for ids in rows])
    loaded = []

    def load():
        loaded.append(method)
        return {kind: {f"model.{kind}.to_v": projection().float()} for kind in ("context", "pooled")}

    erased(method, encoder, pooled=Pooled(encoder), weights=load)
    assert len(loaded) == 1


def test_speed_changes_the_columns_that_read_the_pooled_vector_and_no_others(encoder):
    encoder.pooled_width = 24
    encoder.pool = lambda rows: torch.stack([encoder.encode([ids], 77)[0, ids.index(1)] for ids in rows])
    lent = {"context": {"model.a.to_v": projection().float()}, "pooled": {"model.label": projection(40, 30).float()}}
    delta, _ = erased("speed", encoder, pooled=Pooled(encoder), weights=lambda: lent)
    change = delta.tuned["model.label"].dense()
    assert change.shape == (40, 30)
    assert change[:, :24].any() and not change[:, 24:].any()


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("speed", speed.SpeedSettings(params="X"), "'params' is 'X'; choose one of V, K, KV"),
        ("speed", speed.SpeedSettings(tokens="everything"), "'tokens' is 'everything'; choose one of subject, all"),
        ("speed", speed.SpeedSettings(preserve=0.0), "'preserve' is 0; SPEED needs more"),
        ("rece", rece.ReceSettings(reach=0.0), "'reach' is 0; RECE needs more"),
        ("realera", realera.RealEraSettings(near=0.5), "'near' is 0.5 and 'far' is 0.6"),
        ("realera", realera.RealEraSettings(near=1.5), "'near' is 1.5"),
        ("realera", realera.RealEraSettings(far=-1.5), "'far' is -1.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_any_work(encoder, method, settings, says):
    with pytest.raises(MethodError, match=says):
        erased(method, encoder, settings)
    assert not encoder.encoded


def test_what_cannot_be_done_is_said(encoder):
    with pytest.raises(MethodError, match="choose one of trce, "):
        erased("magic", encoder)
    with pytest.raises(MethodError, match="takes UceSettings, not ReceSettings"):
        erased("uce", encoder, rece.ReceSettings())
    with pytest.raises(MethodError, match="no weights for its context text"):
        erased("speed", encoder, weights=dict)
    for method in ("speed", "esd"):
        with pytest.raises(MethodError, match="to erase_with"):
            erased(method, encoder, weights=None, model=None)
    for method in set(ON_UNETS) - {"esd"}:  # which keeps nothing
        with pytest.raises(TokenError, match="'keep'"):
            erased(method, encoder, keep=("x " * 90,))
