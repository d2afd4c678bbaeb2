"""The corners of the closed form: few pairs, many alike, pairs that contradict, lists that do."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trce_ops.closed_form.erase import EraseSettings, erase
from trce_ops.closed_form.solve import NotPositiveDefinite, factorize, solve_context_map
from trce_ops.text.captions import BENIGN_CAPTIONS
from trce_ops.text.concepts import ConceptError, parse_concepts
from trce_ops.text.tokens import TokenError

D = 6


def embeddings(n, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(sources, targets, ridge=1e-9, preserve=None, eta=0.0):
    weights = torch.ones(len(sources), dtype=torch.float64)
    return solve_context_map(sources, targets, weights, preserve, preserve_scale=eta, ridge=ridge)


def test_one_pair_goes_all_the_way_and_moves_nothing_across():
    c, s = embeddings(2).split(1)
    T = solve(c, s)
    assert torch.allclose(T @ c[0], s[0], atol=1e-6)
    across = embeddings(1, seed=1)[0]
    across -= (across @ c[0]) / (c[0] @ c[0]) * c[0]
    assert torch.allclose(T @ across, across, atol=1e-6)
    assert factorize(T - torch.eye(D)).rank == 1


def test_a_thousand_identical_pairs_are_one():
    c, s = embeddings(2).split(1)
    kept = embeddings(50, seed=2)
    P = kept.mT @ kept / len(kept)
    for eta, mu in ((1.0, 0.3), (0.0, 1e-3)):
        one = solve(c, s, mu, P, eta)
        thousand = solve(c.expand(1000, -1), s.expand(1000, -1), mu, P, eta)
        assert torch.allclose(one, thousand, rtol=0, atol=1e-8)


def test_contradicting_pairs_go_to_the_mean_of_their_targets():
    c, s, t = embeddings(3).split(1)
    T = solve(torch.cat([c, c]), torch.cat([s, t]))
    assert torch.allclose(T @ c[0], (s[0] + t[0]) / 2, atol=1e-6)


def test_a_pair_with_its_own_embedding_as_target_changes_nothing():
    c = embeddings(3)
    assert torch.equal(solve(c, c, 0.3), torch.eye(D, dtype=torch.float64))


def test_a_concept_and_the_same_thing_kept_meet_half_way():
    """Kept exactly as hard as it is moved, an embedding goes exactly half the way."""
    c, s = embeddings(2).split(1)
    T = solve(c, s, 1e-9, c.mT @ c, 1.0)
    assert torch.allclose(T @ c[0], (c[0] + s[0]) / 2, atol=1e-6)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 12),
    d=st.integers(1, 8),
    seed=st.integers(0, 100),
    spread=st.floats(-20, 4),
    size=st.floats(-6, 6),
    mu=st.sampled_from((0.0, 5e-324, 1e-300, 1e-30, 1e-16, 1e-12, 1e-6, 0.3, 100.0)),
    eta=st.sampled_from((0.0, 1e-12, 1.0, 100.0)),
)
def test_near_singular_systems_are_solved_or_refused(n, d, seed, spread, size, mu, eta):
    """Pairs that differ by next to nothing, of any size: a residual as small as it can be, or a sentence."""
    noise = torch.Generator().manual_seed(seed)
    base = torch.randn(1, d, generator=noise, dtype=torch.float64)
    c, s = (10**size * (base + 10**spread * torch.randn(n, d, generator=noise, dtype=torch.float64)) for _ in "cs")
    P = c.mT @ c / n
    try:
        T = solve(c, s, mu, P, eta)
    except NotPositiveDefinite as error:
        assert "raise 'ridge'" in str(error)
        return
    assert T.isfinite().all()

    def objective(T):
        moved = (c @ T.mT - s).square().sum() / n
        D_ = T - torch.eye(d, dtype=T.dtype)
        return moved + eta * ((D_ @ P) * D_).sum() + mu * D_.square().sum()

    floor = 1e-9 * (c.square().sum() + s.square().sum()) / n
    assert objective(T) <= objective(torch.eye(d, dtype=T.dtype)) + floor


SETTINGS = EraseSettings(templates=False)


@pytest.fixture
def report(encoder):
    """report(concepts, keep, templates, captions) -> the report's text."""

    def write(concepts, *keep, templates=False, captions=BENIGN_CAPTIONS[::20]):
        settings = EraseSettings(templates=templates)
        given = parse_concepts(concepts), keep, {"context": encoder}, settings
        return erase(*given, family="sd1", captions=captions)[1].text()

    return write


def test_two_targets_for_one_thing_are_pointed_out(report):
    assert "'a gun' and 'gun' name the same thing" in report("a gun -> cake\ngun -> bread", templates=True)
    assert "the same thing" not in report("a gun -> cake\ngun -> a cake", templates=True)
    with pytest.raises(ConceptError, match="second safe target"):
        parse_concepts("a gun -> cake\nA  GUN -> bread")


def test_a_safe_target_that_is_erased_too_is_pointed_out(report):
    text = report("gun -> cake\ncake -> bread")
    assert "'gun' is replaced by 'cake', and 'cake' is erased too" in text
    assert "erased too" not in report("gun -> cake\nrifle -> cake")


def test_a_concept_that_is_also_kept_is_pointed_out(report):
    assert "'a gun' in 'keep' mentions the concept 'gun'" in report("gun -> cake", "a dog", "a gun")
    assert "'a water gun' in 'keep' mentions" in report("gun -> cake", "a water gun")
    assert "to be kept" not in report("gun -> cake", "gunpowder", "a dog")


def test_a_concept_that_is_its_own_safe_target_is_pointed_out(report, encoder):
    with pytest.raises(ConceptError, match="onto itself"):
        parse_concepts("Gun -> gun")
    tokenize = encoder.tokenize
    encoder.tokenize = lambda text: tokenize(text.replace("pistol", "gun"))  # two spellings, one thing to the encoder
    text = report("gun -> pistol\nrifle -> cake")
    assert "'gun' is not erased: the text encoder gives it the same embeddings as 'pistol'" in text
    assert "'rifle' is not erased" not in text


def test_a_concept_that_is_read_as_another_is_erased_with_it(report):
    text = report("longrifle | long rifle -> cake\ngun -> bread", templates=True)
    assert "Erased 3 concepts" in text and "not erased" not in text
    assert re.search(r"  longrifle -> cake: ([\d.]+)\n  long rifle -> cake: \1\n", text)


def test_words_that_every_caption_has_are_refused(report):
    with pytest.raises(ConceptError, match="nothing could be kept"):
        report("a -> b", captions=("a dog", "cat on a mat"))


def test_characters_that_the_encoder_leaves_out_are_refused(report, encoder):
    tokenize = encoder.tokenize
    encoder.tokenize = lambda text: tokenize(text.replace("\u2603", ""))
    with pytest.raises(TokenError, match="The line of '\u2603' in 'concepts' .* reads nothing"):
        report("\u2603 -> cake")


def test_template_words_as_concepts_are_concepts_like_others(report):
    for concept in ("\\{\\}", "bare", "\\{bare\\}", "\\{0\\}"):
        assert "Erased 1 concept" in report(f"{concept} -> cake", templates=True)
