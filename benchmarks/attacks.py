"""The pack's four attacks, on an erasure of the emoji world.

They learn from pictures that the unedited model draws of the training's wordings, and ask in held-out wordings with
what they have learned: concept inversion for "a *", the word learned, or for "a lion in the * style" where that is a
style; the concept direction for the safe target with the direction on top; the token prefix with words before "a
knife"; latent inversion for "a knife", from the noise found. They are judged like everything else, by what is drawn.

Settings were chosen on erasing.TUNING, so that each brings at least 80 % back from the unedited model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import demo_world
import erasing
import torch
from captions import HELD_OUT_TEMPLATES, TEMPLATES
from erasing import Prompt
from in_comfyui import STEPS, pack
from judge import Verdict
from torch import Tensor
from world import article, concept_names

GIVEN = 5  # added to demo_world.SEED: of the wordings and pictures that attacks learn from
PICTURES = 16  # to learn from; latent inversion has one for every picture it is judged on
ROWS = 40  # pictures that go through the model at a time


@dataclass(frozen=True)
class Settings:
    initial_word: str = "picture"  # one that the demo model knows
    steps: int = 200  # of learning the word
    learning_rate: float = 1e-2  # twice that in half the steps found the word from one of four seeds only
    scale: float = 1.0  # of the direction
    tokens: int = 3  # of the prefix
    searches: int = 10  # steps of its search
    candidates: int = 16


SETTINGS = Settings()


@dataclass(frozen=True)
class Aim:
    """A concept with n pictures of it by the unedited model, the wordings they were drawn from, and held-out ones."""

    thing: str
    shown: list[str]
    pictures: Tensor  # (n, 4, 8, 8) latents as the model sees them
    asked: list[str]  # the same content
    examples: Tensor  # (m, 4, 8, 8) to learn a word from: `pictures`, for a style those of one concept
    lessons: list[str]  # what they have in common, with * for the thing
    questions: list[str]  # held-out wordings with * for the thing


@dataclass(frozen=True)
class Found:
    """What an attack asks the model with."""

    prompts: list[str]  # for people
    context: Tensor  # (n, 77, 768)
    queries: int  # of the model
    noise: Tensor | None = None  # (n, 4, 8, 8), as KSampler takes it; None for any
    words: str = ""


@dataclass(frozen=True)
class Attacked:
    """What came back: a picture for each prompt."""

    prompts: list[Prompt]
    verdict: Verdict
    queries: int
    seconds: float  # of the search
    words: str


def take_aim(bench: demo_world.Bench, thing: str, n: int) -> Aim:
    seed = demo_world.SEED + GIVEN
    shown, rng = erasing.wordings(thing, n, seed), random.Random(seed)  # noqa: S311 - picks words

    def draw(texts: list[str]) -> Tensor:
        return bench.world.sample(bench.world.model, texts, seed).clone()

    pictures = draw([caption.text for caption in shown])
    asked = [erasing.reworded(caption, rng, held_out=True) for caption in shown]
    examples, noun, asked_nouns = pictures, "a *", ["a *"] * n
    if erasing.is_style(thing):  # learned on one concept, asked for on all
        one, *_ = things = [article(concept_names()[caption.concept]) for caption in shown]
        examples = draw([f"{one} in the {thing} style"] * PICTURES)
        noun, asked_nouns = f"{one} in the * style", [f"{other} in the * style" for other in things]
    lessons = [template.format(noun) for template in TEMPLATES[-4:]]
    questions = [HELD_OUT_TEMPLATES[i % len(HELD_OUT_TEMPLATES)].format(noun) for i, noun in enumerate(asked_nouns)]
    return Aim(thing, [caption.text for caption in shown], pictures, asked, examples[:PICTURES], lessons, questions)


@contextmanager
def opened(bench: demo_world.Bench, model) -> Iterator[tuple]:
    """The model and the text encoder, differentiable: a Denoiser and a SoftEncoder."""
    with pack("nodes.host.soft_prompts").open_encoder(bench.world.clip, pools=False) as encoder:
        with pack("nodes.host.denoiser").open_denoiser(model, demo_world.RESOLUTION) as denoise:
            yield denoise, encoder


def instead(text: str, thing: str, other: str) -> str:
    """The text with another concept or style in the place of the thing."""
    for name, its in ((erasing.phrase(thing), erasing.phrase(other)), (thing, other)):
        text = re.sub(rf"\b{re.escape(name)}\b", its, text)
    return text


def concept_inversion(bench: demo_world.Bench, model, aim: Aim) -> Found:
    inversion = pack("trce_ops.attacks.inversion")
    settings = inversion.InversionSettings(SETTINGS.steps, SETTINGS.learning_rate, initial_word=SETTINGS.initial_word)
    with opened(bench, model) as (denoise, encoder):
        word = inversion.learn_word(denoise, encoder, aim.examples, aim.lessons, settings, rows=ROWS)
        context = torch.cat([word.write(text, encoder).sequence for text in aim.questions])
    return Found(aim.questions, context, word.queries)


def concept_direction(bench: demo_world.Bench, model, aim: Aim) -> Found:
    texts = pack("trce_ops.tuning.text_batch").Texts
    ring_a_bell = pack("trce_ops.attacks.ring_a_bell")

    def encode(prompts: list[str]):
        return texts(bench.world.encode(prompts))

    safe = erasing.SAFE[aim.thing]
    replaced = encode([instead(text, aim.thing, safe) for text in aim.shown])
    direction = ring_a_bell.concept_direction(encode(aim.shown), replaced)
    prompts = [instead(text, aim.thing, safe) for text in aim.asked]
    return Found(prompts, ring_a_bell.add_direction(encode(prompts), direction, SETTINGS.scale).sequence, 0)


def token_prefix(bench: demo_world.Bench, model, aim: Aim) -> Found:
    attack = pack("trce_ops.attacks.token_prefix")
    settings = attack.PrefixSettings(SETTINGS.tokens, SETTINGS.searches, SETTINGS.candidates)
    with opened(bench, model) as (denoise, encoder):
        shown = aim.shown[:PICTURES]
        prefix = attack.search_prefix(denoise, encoder, aim.pictures[:PICTURES], shown, settings, rows=ROWS)
    context = bench.world.encode([prefix.write(text) for text in aim.asked])
    return Found(aim.asked, context, prefix.queries, words=" ".join(prefix.words))


def latent_inversion(bench: demo_world.Bench, model, aim: Aim) -> Found:
    with opened(bench, model) as (denoise, encoder):
        predict = pack("trce_ops.tuning.trajectories").Predictor(denoise, ROWS)
        with torch.no_grad():
            empty = encoder.encode([encoder.tokenize("")])
        x = pack("trce_ops.attacks.latent_inversion").invert(predict, aim.pictures, empty, STEPS)
        sigma = denoise.schedule(STEPS)[0]
    # KSampler puts noise of length sqrt(1 + sigma^2) on nothing
    noise = x / (1 + sigma**2).sqrt()
    return Found(aim.asked, bench.world.encode(aim.asked), predict.evaluations, noise)


ATTACKS: dict[str, Callable[[demo_world.Bench, object, Aim], Found]] = {
    attack.__name__: attack for attack in (concept_inversion, concept_direction, token_prefix, latent_inversion)
}


def attack(bench: demo_world.Bench, model, aim: Aim) -> dict[str, Attacked]:
    """All attacks on a model, by label."""
    found = {}
    for label, search in ATTACKS.items():
        began = perf_counter()
        way = search(bench, model, aim)
        seconds = perf_counter() - began
        latents = bench.world.sample(model, way.context, demo_world.SEED, noise=way.noise)
        verdict = bench.world.look(bench.world.decode(latents))
        prompts = [Prompt(label, text, aim.thing) for text in way.prompts]
        found[label] = Attacked(prompts, verdict, way.queries, round(seconds, 1), way.words)
    return found
