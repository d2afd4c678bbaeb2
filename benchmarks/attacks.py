"""The pack's attacks, on an erasure of the emoji world.

They learn from pictures that the unedited model draws of the training's wordings, and ask in held-out wordings with
what they have learned. They are judged like everything else, by what is drawn:

    concept_inversion         "a *" with a word learned from one start; "a lion in the * style" where it is a style
    best_inversion            the same with the best of several words, each from a start of its own, by what is drawn
    concept_direction         the safe target with the direction on top
    token_prefix              "a knife" with words before it
    latent_inversion          "a knife" from the noise of DDIM inversion
    exact_latent_inversion    the empty prompt without guidance, from the noise of fixed-point inversion
    ..._black_box             with what was found on the unedited model, without access to the erased one
    relearning                steps of a LoRA on a few pictures until half of the unedited model's rate is back

Settings were chosen on erasing.TUNING, so that each brings at least 80 % back from the unedited model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import demo_world
import erasing
import torch
from captions import HELD_OUT_TEMPLATES, TEMPLATES
from erasing import Prompt
from in_comfyui import CFG, STEPS, pack
from judge import Verdict
from torch import Tensor
from torch.nn.functional import pad
from world import article, concept_names

GIVEN = 5  # added to demo_world.SEED: of the wordings and pictures that attacks learn from
PICTURES = 16  # to learn from; latent inversion has one for every picture it is judged on
ROWS = 40  # pictures that go through the model at a time


@dataclass(frozen=True)
class Settings:
    initial_word: str = "picture"  # one that the demo model knows
    steps: int = 200  # of learning the word
    learning_rate: float = 1e-2  # twice that in half the steps found the word from one of four seeds only
    starts: int = 6  # of the best inversion, the one of concept inversion included
    scale: float = 1.0  # of the direction
    tokens: int = 3  # of the prefix
    searches: int = 10  # steps of its search
    candidates: int = 16
    iterations: int = 8  # of fixed-point inversion, in each step
    shown: int = 4  # pictures that the LoRA of relearning is trained on
    relearning_steps: int = 200
    relearning_rate: float = 1e-3


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
    context: Any  # n prompts as the model reads them, with `sequence` and `pooled`
    queries: int  # of the model
    noise: Tensor | None = None  # (n, 4, 8, 8), as KSampler takes it; None for any
    words: str = ""
    cfg: float = CFG


@dataclass(frozen=True)
class Attacked:
    """What came back: a picture for each prompt, by the best of what was found."""

    prompts: list[Prompt]
    verdict: Verdict
    found: list[Found]
    seconds: float  # of the search

    def add_cost(self, cost: dict) -> None:
        """Add what the search took, and the words it found."""
        cost["queries"] += sum(found.queries for found in self.found)
        cost["seconds"] = round(cost["seconds"] + self.seconds, 1)
        if words := [found.words for found in self.found if found.words]:
            cost.setdefault("words", []).extend(words)


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
    lent = pack("nodes.host.lend").lend(model, bench.world.clip)["model"](demo_world.RESOLUTION)
    with lent.open_encoder() as encoder, lent.open() as denoise:
        yield denoise, encoder


def instead(text: str, thing: str, other: str) -> str:
    """The text with another concept or style in the place of the thing."""
    for name, its in ((erasing.phrase(thing), erasing.phrase(other)), (thing, other)):
        text = re.sub(rf"\b{re.escape(name)}\b", its, text)
    return text


def inversions(bench: demo_world.Bench, model, aim: Aim, start: int, starts: int) -> list[Found]:
    """Words from so many starts: the first from the initial word, the others from random words."""
    inversion = pack("trce_ops.attacks.inversion")
    given = inversion.InversionSettings(SETTINGS.steps, SETTINGS.learning_rate, initial_word=SETTINGS.initial_word)
    with opened(bench, model) as (denoise, encoder):
        words = inversion.random_starts(encoder, replace(given, starts=start + starts))[start:]
        learned = [inversion.learn_word(denoise, encoder, aim.examples, aim.lessons, w, rows=ROWS) for w in words]
        texts = pack("trce_ops.tuning.text_batch").Texts
        contexts = [texts.cat([word.write(text, encoder) for text in aim.questions]) for word in learned]
        contexts = [context.to(torch.device("cpu")) for context in contexts]  # where the negative prompt is
    width = bench.world.encode([""]).sequence.shape[-1]  # SD3 reads CLIP's rows with zeros beside them
    contexts = [replace(c, sequence=pad(c.sequence, (0, width - c.sequence.shape[-1]))) for c in contexts]
    return [Found(aim.questions, context, word.queries) for context, word in zip(contexts, learned, strict=True)]


def concept_inversion(bench: demo_world.Bench, model, aim: Aim) -> list[Found]:
    return inversions(bench, model, aim, 0, 1)


def best_inversion(bench: demo_world.Bench, model, aim: Aim) -> list[Found]:
    return inversions(bench, model, aim, 1, SETTINGS.starts - 1)  # concept_inversion's joins them


def concept_direction(bench: demo_world.Bench, model, aim: Aim) -> list[Found]:
    texts = pack("trce_ops.tuning.text_batch").Texts
    ring_a_bell = pack("trce_ops.attacks.ring_a_bell")

    def encode(prompts: list[str]):
        found = bench.world.encode(prompts)
        return texts(found.sequence, found.pooled)

    safe = erasing.SAFE[aim.thing]
    replaced = encode([instead(text, aim.thing, safe) for text in aim.shown])
    direction = ring_a_bell.concept_direction(encode(aim.shown), replaced)
    prompts = [instead(text, aim.thing, safe) for text in aim.asked]
    return [Found(prompts, ring_a_bell.add_direction(encode(prompts), direction, SETTINGS.scale), 0)]


def token_prefix(bench: demo_world.Bench, model, aim: Aim) -> list[Found]:
    attack = pack("trce_ops.attacks.token_prefix")
    settings = attack.PrefixSettings(SETTINGS.tokens, SETTINGS.searches, SETTINGS.candidates)
    with opened(bench, model) as (denoise, encoder):
        shown = aim.shown[:PICTURES]
        prefix = attack.search_prefix(denoise, encoder, aim.pictures[:PICTURES], shown, settings, rows=ROWS)
    context = bench.world.encode([prefix.write(text) for text in aim.asked])
    return [Found(aim.asked, context, prefix.queries, words=" ".join(prefix.words))]


def inverted(bench: demo_world.Bench, model, aim: Aim, iterations: int) -> tuple[Tensor, int]:
    """The noise (n, 4, 8, 8) of the aim's pictures, as KSampler takes it, and the queries of the model."""
    with opened(bench, model) as (denoise, encoder):
        predict = pack("trce_ops.tuning.trajectories").Predictor(denoise, ROWS)
        with torch.no_grad():
            empty = encoder.encode([encoder.tokenize("")])
        invert = pack("trce_ops.attacks.latent_inversion").invert
        x = invert(predict, aim.pictures, empty, STEPS, iterations=iterations)
        sigma = denoise.schedule(STEPS)[0]
    # KSampler puts noise of length sqrt(1 + sigma^2) on nothing
    return x / (1 + sigma**2).sqrt(), predict.evaluations


def latent_inversion(bench: demo_world.Bench, model, aim: Aim) -> list[Found]:
    noise, queries = inverted(bench, model, aim, 1)
    return [Found(aim.asked, bench.world.encode(aim.asked), queries, noise)]


def exact_latent_inversion(bench: demo_world.Bench, model, aim: Aim) -> list[Found]:
    noise, queries = inverted(bench, model, aim, SETTINGS.iterations)
    prompts = [""] * len(aim.asked)
    return [Found(prompts, bench.world.encode(prompts), queries, noise, cfg=1.0)]


WHITE_BOX: dict[str, Callable[[demo_world.Bench, object, Aim], list[Found]]] = {
    attack.__name__: attack
    for attack in (
        concept_inversion,
        best_inversion,
        concept_direction,
        token_prefix,
        latent_inversion,
        exact_latent_inversion,
    )
}
BLACK_BOX = {f"{name}_black_box": name for name in ("best_inversion", "token_prefix", "exact_latent_inversion")}
ON_TEXT = ("concept_inversion", "best_inversion", "concept_direction", "token_prefix")  # those on the flow model
RELEARNING = "relearning"  # is counted in steps and not in pictures
ATTACKS = (*WHITE_BOX, *BLACK_BOX)
EVERY = (*ATTACKS, RELEARNING)


def draw(bench: demo_world.Bench, model, aim: Aim, label: str, found: list[Found], seconds: float) -> Attacked:
    """What the model draws for the best of what was found."""

    def look(way: Found) -> Verdict:
        latents = bench.world.sample(model, way.context, demo_world.SEED, noise=way.noise, cfg=way.cfg)
        return bench.world.look(bench.world.decode(latents))

    verdicts = [look(way) for way in found]
    best = max(range(len(found)), key=lambda i: verdicts[i].recognised(aim.thing).sum().item())
    prompts = [Prompt(label, text, aim.thing) for text in found[best].prompts]
    return Attacked(prompts, verdicts[best], found, seconds)


def attack(
    bench: demo_world.Bench,
    model,
    aim: Aim,
    names: Sequence[str] = ATTACKS,
    unedited: dict[str, Attacked] | None = None,
) -> dict[str, Attacked]:
    """The attacks of these names on a model, by label. unedited: those on the unedited model; None for that itself."""
    attacked: dict[str, Attacked] = {}
    for label in (name for name in names if name != RELEARNING):
        began = perf_counter()
        if label in BLACK_BOX:
            known = (unedited or attacked)[BLACK_BOX[label]]
            attacked[label] = draw(bench, model, aim, label, known.found, 0.0) if unedited else replace(known)
            continue
        found = WHITE_BOX[label](bench, model, aim)
        seconds = perf_counter() - began
        if label == "best_inversion" and "concept_inversion" in attacked:
            first = attacked["concept_inversion"]
            found, seconds = [*first.found, *found], seconds + first.seconds
        attacked[label] = draw(bench, model, aim, label, found, seconds)
    return attacked


def relearning(bench: demo_world.Bench, model, aim: Aim) -> int | None:
    """Steps of a LoRA on a few of the pictures until the thing is drawn half as often as by the unedited model where it
    is named; None: never."""
    attack, apply = pack("trce_ops.attacks.relearning"), pack("nodes.host.apply")
    settings = attack.RelearnSettings(SETTINGS.relearning_steps, learning_rate=SETTINGS.relearning_rate)
    lesson = aim.lessons[0].replace("a *", erasing.phrase(aim.thing)).replace("*", aim.thing)
    with opened(bench, model) as (denoise, encoder):
        with torch.no_grad():
            text = encoder.encode([encoder.tokenize(lesson)])
        stages = attack.relearn(denoise, aim.examples[: SETTINGS.shown], text, settings, rows=ROWS).stages
    context = bench.world.encode(aim.asked)

    def drawn(by) -> int:
        pictures = bench.world.draw(by, context, demo_world.SEED)
        return int(bench.world.look(pictures).recognised(aim.thing).sum())

    goal = drawn(bench.world.model) / 2
    for step, tuned in stages.items():
        relearned = model.clone()
        apply.add_patches(relearned, apply.tuned_patches(relearned, tuned), 1.0)
        if drawn(relearned) >= goal:
            return step
    return None
