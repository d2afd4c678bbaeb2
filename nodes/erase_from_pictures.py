"""Erase from Pictures: pictures of what to erase in, a MODEL that no longer draws it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io

from ..trce_ops.attacks.inversion import TEMPLATES, InversionSettings, LearnedWord, check_templates, learn_words
from ..trce_ops.attacks.nearest_words import Agreement, Nearest, nearest_words
from ..trce_ops.lists.words import WORDS
from ..trce_ops.methods.trce import erase_and_tune
from ..trce_ops.text.concepts import ConceptPair, parse_concepts, parse_keep, parse_safe
from ..trce_ops.text.embeddings import TextEncoder, locate_pairs
from ..trce_ops.text.learned_words import NAME, LearnedWords, name_of
from ..trce_ops.text.prompts import expand, sentences
from ..trce_ops.tuning.text_batch import Texts
from ..trce_ops.tuning.trajectories import is_out_of_memory
from .attacks import concept_inversion
from .erase import CLOSED_FORM, LOSSES, MODE, SETTINGS, chosen, job_of, shown
from .host.apply import apply_delta
from .host.denoiser import check_differentiable, open_denoiser
from .host.dynamic_vram import check_file
from .host.encoders import text_encoders
from .host.errors import HostError
from .host.lend import lend
from .host.limits import limits
from .host.pictures import as_latents
from .host.progress import node_progress
from .host.readers import CONTEXT, POOLED, find_text_readers
from .host.soft_prompts import open_encoder
from .inputs import CLIP, ERASED, KEEP, MODEL, STRENGTH, concepts_input, seed_input, setting_inputs, settings_from
from .settings import Settings
from .ui.bounds import within_bounds
from .ui.lists import lines as read_lines

MOST = 64  # pictures
LINES = "\n".join(TEMPLATES)
# Small steps: a word that has gone far from all others explains pictures, and erasing it leaves the name (docs/log.md)
LEARNING = InversionSettings(steps=100, learning_rate=3e-4, starts=3, initial_word="")
LITTLE = 0.1  # cosine; a name reached 0.5 on the demo model, an unrelated word 0.1
NEAR = 0.5  # of the nearest word's cosine, which other words to start from need
TOOLTIPS = {
    "starts": "How many words to learn at most, each from a start of its own. More words cover more of what the "
    "pictures show.",
    "steps": "Steps of learning each word. More steps describe the pictures more exactly and take longer.",
    "initial_word": "The words to start from, with commas between them. Empty: the words nearest to the pictures are "
    "searched in a list of a thousand, which takes some 4000 evaluations of the model.",
    "learning_rate": "Size of a step. Small ones keep the words near those they start from, which erases their names "
    "too.",
    "batch": concept_inversion.TOOLTIPS["batch"],
}
LIMITS = concept_inversion.LIMITS | {"starts": (1, 16), "steps": (1, 10000)}


class TRCEEraseFromPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEEraseFromPictures",
            display_name="Erase from Pictures",
            category="model/trce",
            description="Makes a model stop drawing what your pictures show: a look, a character, a watermark. It "
            "learns words that make this model draw such pictures, and erases these words as TRCE Erase does. You need "
            "not know what it is called.",
            search_aliases=["unlearn", "erase concept", "textual inversion", "style", "character", "watermark"],
            inputs=[
                MODEL,
                CLIP,
                io.MultiType.Input(
                    "pictures",
                    [io.Latent, io.Image],
                    tooltip="4 to 32 pictures of what to erase that have nothing else in common: images, with 'vae' "
                    "connected, or latents. Pictures that this model drew itself work best.",
                ),
                io.String.Input(
                    "safe",
                    default="",
                    optional=True,
                    tooltip="What to draw instead, such as 'a pencil'. Empty erases towards the empty prompt.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes 'pictures' where they are images."),
                concepts_input(optional=True),
                KEEP,
                MODE,
                STRENGTH,
                SETTINGS,
                io.String.Input(
                    "templates",
                    multiline=True,
                    default=LINES,
                    optional=True,
                    advanced=True,
                    tooltip="Prompts to learn the words in, one per line, with '*' in the place of the word. For a "
                    "look, write 'a picture in the style of *'.",
                ),
                *setting_inputs(vars(LEARNING), TOOLTIPS, LIMITS, advanced=("initial_word", "learning_rate", "batch")),
                seed_input("Seed of everything that is random in learning the words."),
            ],
            outputs=[*ERASED, LOSSES],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model,
        clip,
        pictures,
        safe="",
        vae=None,
        concepts="",
        keep="",
        mode=CLOSED_FORM,
        strength=1.0,
        settings=None,
        templates=LINES,
        **learning,
    ) -> io.NodeOutput:
        settings = settings_from(settings, Settings, "TRCE Settings")
        readers = check_differentiable(model, "erasing from pictures", "use TRCE Erase")
        check_file(clip.patcher, "clip")
        asked, start, prompts = chosen(model, mode, settings), replace(LEARNING, **learning), read_lines(templates)
        written, kept, safe = parse_concepts(concepts, optional=True), parse_keep(keep), parse_safe(safe)
        encoder: Any = text_encoders(clip, readers)[CONTEXT]
        check_templates(prompts, start.vectors, encoder)
        check_texts(encoder, asked.closed_form.templates, written, kept, safe)
        progress = node_progress(cls.hidden.unique_id)
        try:
            learned = learn(model, clip, pictures, vae, prompts, start, progress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            learned = None  # refused below, where the traceback no longer holds the tensors
        if learned is None:
            raise HostError("The device has not enough memory to learn the words; connect smaller 'pictures'.")
        vectors = {name_of(word.vectors): word.vectors for word in learned.words}
        pairs = (*(ConceptPair(name, safe) for name in vectors), *written)
        job = job_of(lend(model, clip, learned=LearnedWords(vectors)), pairs, kept, settings, cls.hidden.unique_id)
        delta, report, tuned = erase_and_tune(job, asked)
        named = {name: f"word {i} of the pictures" for i, name in enumerate(vectors, 1)}
        known = tuple(replace(pair, concept=named.get(pair.concept, pair.concept)) for pair in delta.info.concepts)
        delta = replace(delta, info=replace(delta.info, concepts=known))
        text = NAME.sub(lambda found: named[found[0]], report.text())
        lines = [*learned.lines, text, *limits(model, delta, clip, concepts, cls.hidden.prompt)]
        return shown(cls, apply_delta(model, delta, strength), delta, lines, tuned)


def check_texts(
    encoder: TextEncoder, templates: bool, concepts: Sequence[ConceptPair], keep: Sequence[str], safe: str
) -> None:
    """Raises TokenError, naming the widget, for text that does not fit into the sentences in which it is erased."""
    around = sentences([pair.concept for pair in concepts], templates)
    kept = [ConceptPair(line, line) for line in keep]
    for widget, pairs in {"concepts": concepts, "keep": kept, "safe": [ConceptPair(safe, safe)]}.items():
        for _ in locate_pairs(expand(pairs, around), encoder, widget):
            pass


@dataclass(frozen=True)
class Learned:
    words: list[LearnedWord]  # best first
    queries: int  # of the model, to find and to learn them
    lines: list[str]  # for people: how much of the pictures they explain


def learn(model, clip, pictures, vae, templates: Sequence[str], settings: InversionSettings, progress) -> Learned:
    """The words for the pictures."""
    latents, size = as_latents(model, pictures, vae)
    if len(latents) > MOST:
        raise HostError(f"'pictures' are {len(latents)}; at most {MOST} are accepted.")
    pools = POOLED in find_text_readers(model).streams
    with open_encoder(clip, pools) as encoder, open_denoiser(model, *size) as denoise:
        given = [word.strip() for word in settings.initial_word.split(",") if word.strip()]
        seen = {"seed": settings.seed, "rows": denoise.at_once}
        nearest = Nearest([(word, 1.0) for word in given], 0)
        if not given:
            nearest = nearest_words(denoise, encoder, latents, WORDS, **seen, progress=progress)
        near = nearest.words
        starts = [
            replace(settings, initial_word=word, seed=settings.seed + i)
            for i, (word, cosine) in enumerate(near[: settings.starts])
            if not i or cosine >= NEAR * near[0][1]
        ]
        words = learn_words(denoise, encoder, latents, templates, starts, rows=denoise.at_once, progress=progress)
        texts = Texts.cat([word.write(templates[0], encoder) for word in words])
        agreement = Agreement(denoise, encoder, latents, **seen)
        agree = agreement(texts)
    queries = nearest.queries + sum(word.queries for word in words) + agreement.predict.evaluations
    found = []
    if not given:
        found.append("Nearest words: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in near[:5]))
    cosines = ", ".join(f"{cosine:.2f}" for cosine in agree.tolist())
    found.append(
        f"Learned {len(words)} word{'' if len(words) == 1 else 's'} from {len(latents)} pictures by {queries} "
        f"evaluations of the model. How well they say what the pictures show (cosine, 0 = not at all): {cosines}"
    )
    if agree.max() < LITTLE:
        found.append("The words say little of the pictures: this model hardly draws such pictures, or 'steps' is low.")
    return Learned(words, queries, found)
