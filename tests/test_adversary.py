"""Adversarial words on toys: they learn, the model that met them withstands them better, and nothing else depends on
them."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trce_ops.closed_form.erase import EraseSettings, erase
from trce_ops.text.captions import BENIGN_CAPTIONS
from trce_ops.text.concepts import parse_concepts
from trce_ops.tuning.adversary import LIFE, Adversary
from trce_ops.tuning.data import Data
from trce_ops.tuning.factors import Trained
from trce_ops.tuning.losses import drift
from trce_ops.tuning.soft_prompts import put_at
from trce_ops.tuning.text_batch import Texts
from trce_ops.tuning.trajectories import Points, Predictor
from trce_ops.tuning.tune import request_of, tune

toys = runpy.run_path(str(Path(__file__).with_name("test_tuning.py")))
ToyDenoiser, lend, generator = toys["ToyDenoiser"], toys["lend"], toys["generator"]
SETTINGS = replace(toys["SMALL"], steps=200, learning_rate=3e-3, preserve=3.0, reach=0.0, unconditional=0.0)


class Soft:
    """conftest's ToyEncoder as a differentiable function of its token vectors."""

    eot_id, width = 1, 24

    def __init__(self, hard):
        self.hard = hard

    def tokenize(self, text):
        return self.hard.tokenize(text)

    def look_up(self, ids):
        return self.hard.table[list(ids)]

    def words(self):
        return torch.arange(10, 40), [f"w{i}" for i in range(30)]

    def encode(self, rows):
        vectors = [torch.stack([v if torch.is_tensor(v) else self.hard.table[v] for v in row]) for row in rows]
        x = torch.stack(vectors)
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return Texts(torch.tanh(x + 2 * mean) + self.hard.places)


@pytest.fixture
def delta(encoder):
    pairs, few = parse_concepts("gun -> cake"), BENIGN_CAPTIONS[::20]
    return erase(pairs, (), encoder, EraseSettings(), family="sd1", captions=few)[0]


def tuned(delta, encoder, settings, soft=True, progress=lambda *_: None):
    model = replace(lend(ToyDenoiser())[0], open_encoder=(lambda: toys["contextmanager"](yield_one)(Soft(encoder))))
    model = model if soft else replace(model, open_encoder=None)
    maps = {"context": delta.context_map}
    return tune(request_of(delta), {"context": encoder}, model, maps, settings, progress=progress)


def yield_one(thing):
    yield thing


def attacker(delta, encoder, weights, updates=10):
    """A new word against a model that keeps still, on four points of one prompt."""
    noise, maps = generator(7), {"context": delta.context_map}
    denoise = ToyDenoiser()
    ids = encoder.tokenize("a gun on a table")
    x, sigma = denoise.noise(4, noise, torch.tensor(5.0)), torch.full((4,), 5.0)
    texts = (Texts(encoder.encode([encoder.tokenize(text)], 77)) for text in ("a gun on a table", "a cake on a table"))
    e_neg, e_safe = (denoise(x, sigma, text.repeat(4), {}) for text in texts)
    points = Points(x, sigma, torch.zeros(4, dtype=torch.long), e_neg, e_neg)
    denoise.weights = weights
    still = Trained({name: W for name, W in weights.items() if "attn2.to_v" in name}, 2, noise)
    settings = replace(SETTINGS, words=1, word_batch=4, word_updates=updates)
    prompts = [(ids, encoder.locate(ids, "gun").keyword)]
    adversary = Adversary(Soft(encoder), prompts, Predictor(denoise, 2), still, maps, settings, generator(1))

    def distance():
        i, texts = adversary.learn(Data(points, e_safe, points, None))
        e = denoise(x[i], sigma[i], texts.moved(maps), {})
        return (drift(e, e_neg[i]) / drift(e_safe[i], e_neg[i])).mean().item()

    return adversary, distance


def weights_of(tuning):
    """Of a model tuned after a map that moves nothing."""
    plain = ToyDenoiser().weights
    change = {f"{module}.weight": dW.dense() for module, dW in tuning.tuned.items()}
    return {name: W + change[name] if name in change else W for name, W in plain.items()}


def test_put_at_by_obvious_lines():
    v = torch.ones(1, 3)
    row = put_at(v, (0, 7, 8, 9, 7, 8, 1, 1, 1), (1, 2, 4, 5))
    assert [x if isinstance(x, int) else "v" for x in row] == [0, "v", 9, "v", 1, 1, 1, 1, 1]
    long = put_at(torch.ones(3, 3), (0, 5, 6, 1), (1,))
    assert [x if isinstance(x, int) else "v" for x in long] == [0, "v", "v", "v"]
    assert put_at(v, (0, 5, 1), ()) == [0, 5, 1]


def test_words_learn_what_the_model_still_draws_the_concept_for(delta, encoder):
    _, distance = attacker(delta, encoder, ToyDenoiser().weights)
    found = [distance() for _ in range(LIFE)]
    assert found[-1] < 0.5 * found[0]


def test_a_word_is_exchanged_after_its_life(delta, encoder):
    adversary, distance = attacker(delta, encoder, ToyDenoiser().weights, updates=1)
    words = []
    for _ in range(2 * LIFE):
        words.append(adversary.words[0])
        distance()
    assert [words.index(word) for word in words] == [0] * LIFE + [LIFE] * LIFE


def test_a_model_tuned_on_adversarial_words_withstands_new_ones_better(delta, encoder):
    identity = replace(delta, context_map=replace(delta.context_map, factors=(torch.zeros(24, 0), torch.zeros(0, 24))))
    thing = replace(identity.info, concepts=parse_concepts("a gun -> a cake"))
    identity = replace(identity, info=thing)
    left = {}
    for words in (0, 6):
        tuning = tuned(identity, encoder, replace(SETTINGS, words=words, word_updates=10))
        assert (tuning.word_evaluations > 0) == bool(words)
        _, distance = attacker(identity, encoder, weights_of(tuning))
        left[words] = [distance() for _ in range(24)][::4]
    print(left)
    assert all(after > 1.1 * before for before, after in zip(left[0], left[6]))


def test_the_same_seed_gives_the_same_tuning_and_words_are_counted(delta, encoder):
    settings = replace(SETTINGS, steps=6, words=3, word_batch=2, word_updates=2)
    one, two = (tuned(delta, encoder, settings) for _ in range(2))
    assert one.losses == two.losses and one.word_evaluations == 6 * 2 * 2
    plain = tuned(delta, encoder, replace(settings, words=0))
    assert one.train_evaluations == plain.train_evaluations + 6 * 3 * 2
    assert one.losses != plain.losses


def test_without_words_or_a_differentiable_encoder_nothing_changes(delta, encoder):
    settings = replace(SETTINGS, steps=6)
    without = tuned(delta, encoder, replace(settings, words=0), soft=False)
    for other in (tuned(delta, encoder, replace(settings, words=0)), tuned(delta, encoder, settings, soft=False)):
        assert other.losses == without.losses and not other.word_evaluations
        for module, change in without.tuned.items():
            assert torch.equal(other.tuned[module].dense(), change.dense())
