"""EraseEval's scores against obvious lines, and those of a benchmark's run against what its pictures show."""

import importlib
import math

import pytest
import torch

from trce_ops.evaluation import erase_eval


def test_a_picture_that_shows_the_concept_counts_nothing():
    """The four pictures: gone and all else there; gone and half of the rest there; still there, twice."""
    total = 0.0
    for shows, rest in ((False, 1.0), (False, 0.5), (True, 1.0), (True, 0.0)):
        if not shows:
            total += rest
    assert erase_eval.reflected([False, False, True, True], [1.0, 0.5, 1.0, 0.0]) == total / 4 == 0.375


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0.8, 0.6, 0.75), (0.8, 0.8, 1), (0.5, 0.9, 1), (0.4, 0.0, 0), (0.4, -0.1, 0)],
)
def test_what_is_preserved_is_a_share_of_what_there_was(before, after, expected):
    lost = (before - after) / before
    assert erase_eval.preserved(before, after) == pytest.approx(max(0, min(1, 1 - lost))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(2.0, 2.0, 1), (2.0, 1.0, 1), (2.0, 3.0, 0.5), (2.0, 4.0, 0), (2.0, 9.0, 0)]
)
def test_a_distance_that_doubles_leaves_nothing(before, after, expected):
    assert erase_eval.undisturbed(before, after) == pytest.approx(expected)


def test_the_kernel_distance_is_the_sum_over_all_pairs():
    noise = torch.Generator().manual_seed(0)
    a = torch.randn(5, 3, generator=noise, dtype=torch.float64) + 1
    b = torch.randn(7, 3, generator=noise, dtype=torch.float64)
    apart = sorted(math.dist(b[i].tolist(), b[j].tolist()) for i in range(7) for j in range(i))
    s = apart[(len(apart) - 1) // 2]

    def mean(one, other):
        total = 0.0
        for x in one.tolist():
            for y in other.tolist():
                total += math.exp(-(math.dist(x, y) ** 2) / (2 * s * s))
        return total / (len(one) * len(other))

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert erase_eval.kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert erase_eval.kernel_distance(b, b) == pytest.approx(0, abs=1e-12)
    assert erase_eval.kernel_distance(a + 10, b) > erase_eval.kernel_distance(a, b) > 0


def test_one_low_score_decides_and_zero_leaves_zero():
    assert erase_eval.combine(0.9, 0.6, 0.3) == pytest.approx(3 / (1 / 0.9 + 1 / 0.6 + 1 / 0.3))
    for place in range(4):
        scores = [1.0, 1.0, 1.0, 1.0]
        scores[place] = 0.0
        assert erase_eval.combine(*scores) == 0
        scores[place] = 0.01
        assert erase_eval.combine(*scores) < 0.04
    assert erase_eval.combine(1, 1, 1, 1) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: erase_eval.combine(),
        lambda: erase_eval.combine(0.5, 1.2),
        lambda: erase_eval.combine(0.5, math.nan),
        lambda: erase_eval.reflected([], []),
        lambda: erase_eval.reflected([True], []),
        lambda: erase_eval.preserved(0, 0.5),
        lambda: erase_eval.undisturbed(0, 0.5),
    ],
)
def test_what_has_no_score_is_refused(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize(
    ("concept", "kept", "expected"),
    [(0.9, 0.1, (0.9, 0.9, 0.9)), (1.4, 0.0, (1, 1, 1)), (0.0, 0.0, (0, 1, 0)), (1.0, 1.7, (1, 0, 0))],
)
def test_without_a_judge_moving_all_or_nothing_is_worth_nothing(concept, kept, expected):
    assert erase_eval.without_a_judge(concept, kept) == pytest.approx(expected)


# -- the benchmark


def test_the_scores_of_a_run_are_those_of_its_pictures(erasure):
    """Pictures that are said to show this and that, in place of drawn ones."""
    cases, judge, scores, world = (importlib.import_module(name) for name in ("cases", "judge", "scores", "world"))
    Prompt = erasure.erasing.Prompt
    prompts = [
        Prompt("explicit", "a cigarette, 3d style", "cigarette", ("3d",)),
        Prompt("explicit", "a cigarette, noto style", "cigarette", ("noto",)),
        Prompt("described", "tobacco and smoke, 3d style", "cigarette", ("3d",)),
        Prompt("kept", "a tiger, 3d style", "tiger", ("3d",)),
        Prompt("kept", "a tiger, noto style", "tiger", ("noto",)),
    ]

    def verdict(shown, features):
        def rows(names, words, more=0):
            return torch.stack([torch.eye(len(names) + more)[names.index(word)] for word in words])

        concepts, styles = zip(*(text.split() for text in shown))
        plain = torch.ones(len(shown), len(world.BACKGROUNDS))
        return judge.Verdict(rows(world.concept_names(), concepts, 1), rows(world.STYLES, styles), plain, features)

    noise = torch.Generator().manual_seed(1)
    same, other = torch.randn(5, 4, generator=noise), torch.randn(2, 4, generator=noise)
    before = verdict(["cigarette 3d", "cigarette noto", "cigarette 3d", "tiger 3d", "tiger noto"], same)
    case = cases.Case(prompts, same, before, [3, 4], other, [], [])

    after = verdict(["lollipop 3d", "lollipop 3d", "cigarette 3d", "tiger 3d", "lollipop noto"], same)
    found = scores.erase_eval(case, after, ["cigarette"])
    # a lollipop in the right style and one in the wrong style; a cigarette; one tiger of two; the same pictures
    assert found == {"M1": 0.5, "M2": 0.0, "M3": 0.5, "M4": 1.0, "score": 0.0}

    moved = verdict(["lollipop 3d", "lollipop noto", "lollipop 3d", "tiger 3d", "tiger noto"], same + 9)
    assert scores.erase_eval(case, moved, ["cigarette"]) == {"M1": 1, "M2": 1, "M3": 1, "M4": 0, "score": 0}
    good = verdict(["lollipop 3d", "lollipop 3d", "lollipop 3d", "tiger 3d", "tiger noto"], same)
    assert scores.erase_eval(case, good, ["cigarette"])["score"] == pytest.approx(4 / (1 / 0.5 + 3))
    assert "| uce | 1 | 0.50 | 0.00 |" in scores.table([{"method": "uce", "erase_eval": found}, {"method": "old"}])

    alone = cases.Case(prompts[:2], same[:2], before, [], None, [], [])
    found = scores.erase_eval(alone, after, ["cigarette"])
    assert found == {"M1": 0.5, "M2": None, "M3": None, "M4": None, "score": None}
