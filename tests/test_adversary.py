"""Adversarial words and embeddings on toys: they learn, and the model that met them withstands new ones better."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trce_ops.closed_form.erase import EraseSettings, erase
from trce_ops.text.captions import BENIGN_CAPTIONS
from trce_ops.text.concepts import parse_concepts
from trce_ops.tuning.adversarial_texts import DISPLACEMENTS, Embeddings, Words
from trce_ops.tuning.adversary import LIFE, Adversary
from trce_ops.tuning.data import Contexts, Data
from trce_ops.tuning.factors import Trained
from trce_ops.tuning.losses import drift
from trce_ops.tuning.soft_prompts import put_at
from trce_ops.tuning.text_batch import Texts
from trce_ops.tuning.trajectories import Points, Predictor
from trce_ops.tuning.tune import request_of, tune, tune_delta

toys = runpy.run_path(str(Path(__file__).with_name("test_tuning.py")))
ToyDenoiser, lend, generator = toys["ToyDenoiser"], toys["lend"], toys["generator"]
SETTINGS = replace(toys["SMALL"], steps=200, learning_rate=3e-3, preserve=3.0, unconditional=0.0)


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
    return erase(pairs, (), {"context": encoder}, EraseSettings(), family="sd1", captions=few)[0]


KINDS = ("words", "embeddings")


def tuned(delta, encoder, settings, soft=True, progress=lambda *_: None):
    model = replace(lend(ToyDenoiser())[0], open_encoder=(lambda: toys["contextmanager"](yield_one)(Soft(encoder))))
    model = model if soft else replace(model, open_encoder=None)
    maps = {"context": delta.context_map}
    return tune(request_of(delta), {"context": encoder}, model, maps, settings, progress=progress)


def test_the_text_encoder_is_loaded_before_the_model(delta, encoder):
    """What is loaded later may take the place of what is there, and undo the patches on the model's objects."""
    model, log = lend(ToyDenoiser())

    @toys["contextmanager"]
    def open_encoder():
        log.append("encoder")
        yield Soft(encoder)

    maps = {"context": delta.context_map}
    settings = replace(SETTINGS, steps=1, words=1)
    tune(request_of(delta), {"context": encoder}, replace(model, open_encoder=open_encoder), maps, settings)
    assert log == ["encoder", "open", "closed"]


def yield_one(thing):
    yield thing


def read(encoder, *texts):
    return Texts(encoder.encode([encoder.tokenize(text) for text in texts], 77))


def source_of(kind, encoder):
    """For one unwanted prompt."""
    if kind == "words":
        ids = encoder.tokenize("a gun on a table")
        return Words(Soft(encoder), [(ids, encoder.locate(ids, "gun").keyword)])
    kept = read(encoder, *BENIGN_CAPTIONS[::20])
    one = (read(encoder, text) for text in ("a gun on a table", "a cake on a table", ""))
    return Embeddings(Contexts(*one, kept), 0, generator(3))


def attacker(kind, delta, encoder, weights, updates=10):
    """A new vector against a model that keeps still, on four points of one prompt."""
    noise, maps = generator(7), {"context": delta.context_map}
    denoise = ToyDenoiser()
    x, sigma = denoise.noise(4, noise, torch.tensor(5.0)), torch.full((4,), 5.0)
    texts = read(encoder, "a gun on a table"), read(encoder, "a cake on a table")
    e_neg, e_safe = (denoise(x, sigma, text.repeat(4), {}) for text in texts)
    points = Points(x, sigma, torch.zeros(4, dtype=torch.long), e_neg, e_neg)
    denoise.weights = weights
    still = Trained({name: W for name, W in weights.items() if "attn2.to_v" in name}, 2, noise)
    settings = replace(SETTINGS, words=1, word_batch=4, word_updates=updates)
    source = source_of(kind, encoder)
    adversary = Adversary(source, Predictor(denoise, 2), still, maps, settings, generator(1))

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


def test_displacements_are_mixed_from_text_and_not_from_its_padding(encoder):
    """Padding behind a prompt is zero, whether its length is known or the encoder pads every prompt alike."""
    one = [read(encoder, text) for text in ("a gun on a table", "a cake on a table", "")]
    kept = read(encoder, *BENIGN_CAPTIONS[::20])
    padded = Texts(torch.cat([kept.sequence[:, :9], torch.zeros(len(kept), 500, 24)], 1))
    differences = Embeddings(Contexts(*one, padded), 0, generator(3)).differences["text"]
    assert torch.equal(
        differences, Embeddings(Contexts(*one, Texts(kept.sequence[:, :9])), 0, generator(3)).differences["text"]
    )
    known = replace(padded, lengths=torch.full((len(kept),), 9))
    assert torch.equal(differences, Embeddings(Contexts(*one, known), 0, generator(3)).differences["text"])


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_learn_what_the_model_still_draws_the_concept_for(kind, delta, encoder):
    _, distance = attacker(kind, delta, encoder, ToyDenoiser().weights)
    found = [distance() for _ in range(LIFE)]
    assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_drawn_like_its_safe_one_teaches_nothing(kind, delta, encoder):
    """A concept that the text encoder reads like its safe target; there is nothing to divide by."""
    adversary, _ = attacker(kind, delta, encoder, ToyDenoiser().weights, updates=1)
    before = adversary.learned[0].vector.detach().clone()
    x, sigma, e = torch.randn(4, 4, 3, 3, generator=generator()), torch.full((4,), 5.0), torch.zeros(4, 4, 3, 3)
    points = Points(x, sigma, torch.zeros(4, dtype=torch.long), e, e)
    _, written = adversary.learn(Data(points, e.clone(), points, None))
    assert torch.equal(adversary.learned[0].vector, before) and written.sequence.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_is_exchanged_after_its_life(kind, delta, encoder):
    adversary, distance = attacker(kind, delta, encoder, ToyDenoiser().weights, updates=1)
    vectors = []
    for _ in range(2 * LIFE):
        vectors.append(adversary.learned[0])
        distance()
    assert [vectors.index(vector) for vector in vectors] == [0] * LIFE + [LIFE] * LIFE


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_tuned_against_vectors_withstands_new_ones_better(kind, delta, encoder):
    nothing = replace(delta.context_map, factors=(torch.zeros(24, 0), torch.zeros(0, 24)))
    identity = replace(delta, maps={"context": nothing})
    thing = replace(identity.info, concepts=parse_concepts("a gun -> a cake"))
    identity = replace(identity, info=thing)
    left = {}
    for words in (0, 6):
        tuning = tuned(identity, encoder, replace(SETTINGS, words=words, word_updates=10, adversary=kind))
        assert (tuning.word_evaluations > 0) == bool(words)
        _, distance = attacker(kind, identity, encoder, weights_of(tuning))
        found = [distance() for _ in range(24)][::4]
        left[words] = found if kind == "words" else found[3:]  # displacements start at any distance
    assert all(after > 1.1 * before for before, after in zip(left[0], left[6]))


def test_displacements_vary_as_kept_text_does_and_stay_within_their_size():
    """Two thousand of them; one channel of the kept rows varies ten times as much as another, and the first row, far
    larger than all, is the same in every prompt."""
    noise = generator(5)
    kept = torch.randn(400, 30, 2, generator=noise) * torch.tensor([1.0, 10.0])
    kept[:, 0] = 1e4
    neg = torch.randn(1, 30, 2, generator=noise)
    safe = neg.clone()
    safe[:, 10:] += 1
    pooled = torch.randn(400, 3, generator=noise)
    texts = Contexts(Texts(neg, pooled[:1]), Texts(safe, pooled[:1]), Texts(neg), Texts(kept, pooled))
    source = Embeddings(texts, 0, noise)
    vectors = [source.start(noise) for _ in range(2000)]
    moved = torch.cat([source.write(v / v.square().mean().sqrt(), 0).sequence for v in vectors]) - neg
    assert not moved[:, :10].any()  # the prompts are alike there
    torch.testing.assert_close(moved[:, 10].std(0), torch.tensor([1.0, 10.0]), rtol=0.15, atol=0)
    sizes = [v.square().mean().sqrt().item() for v in vectors]
    assert min(sizes) > 0.9 * DISPLACEMENTS[0] and max(sizes) < 1.1 * DISPLACEMENTS[1]
    far, further = (source.write(size * vectors[0], 0) for size in (100, 1000))
    torch.testing.assert_close(far.sequence, further.sequence)
    assert not torch.equal(far.pooled, pooled[:1])


def test_padding_and_rows_of_another_width_stay_what_they_are():
    """SD3's four rows of CLIP are zero beyond its width; two prompts of T5 have 3 and 2 rows."""
    noise = generator(5)

    def prompts(n):
        clip = torch.nn.functional.pad(torch.randn(n, 4, 5, generator=noise), (0, 3))
        return torch.cat([clip, torch.randn(n, 3, 8, generator=noise)], 1)

    neg, safe, kept = prompts(2), prompts(2), prompts(30)
    neg[1, -1] = 0
    texts = Contexts(Texts(neg, lengths=torch.tensor([7, 6])), Texts(safe), Texts(safe[:1]), Texts(kept))
    source = Embeddings(texts, 4, noise)
    moved = source.write(source.start(noise), 1)
    assert moved.lengths.tolist() == [6] and not moved.sequence[0, -1].any()
    assert not moved.sequence[0, :4, 5:].any() and (moved.sequence[0, :6, :5] != neg[1, :6, :5]).all()
    assert (moved.sequence[0, 4:6] != neg[1, 4:6]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_tuning_and_evaluations_are_counted(kind, delta, encoder):
    settings = replace(SETTINGS, steps=6, words=3, word_batch=2, word_updates=2, adversary=kind)
    one, two = (tuned(delta, encoder, settings) for _ in range(2))
    assert one.losses == two.losses and one.word_evaluations == 6 * 2 * 2
    plain = tuned(delta, encoder, replace(settings, words=0))
    assert one.train_evaluations == plain.train_evaluations + 6 * 3 * 2
    assert one.losses != plain.losses


def test_without_words_the_text_encoder_makes_no_difference(delta, encoder):
    settings = replace(SETTINGS, steps=6, words=0)
    without, other = (tuned(delta, encoder, settings, soft=soft) for soft in (False, True))
    assert other.losses == without.losses and not other.word_evaluations
    for module, change in without.tuned.items():
        assert torch.equal(other.tuned[module].dense(), change.dense())


def test_without_a_differentiable_encoder_embeddings_take_the_place_of_words(delta, encoder):
    settings = replace(SETTINGS, steps=6, words=3)
    without = tuned(delta, encoder, settings, soft=False)
    chosen = tuned(delta, encoder, replace(settings, adversary="embeddings"))
    assert without.losses == chosen.losses != tuned(delta, encoder, settings).losses


def test_a_delta_says_what_it_was_tuned_against(delta, encoder):
    settings = replace(SETTINGS, steps=2, words=1)
    made, report = tune_delta(delta, {"context": encoder}, lend(ToyDenoiser())[0], settings)
    assert made.info.settings["tune_adversary"] == "embeddings" and "adversarial embeddings" in report.text()
