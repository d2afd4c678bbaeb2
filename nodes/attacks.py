"""Probes: attacks on an erased MODEL, to see whether the concept comes back when it is asked for in other ways."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..trce_ops.attacks.evidence import BACK, comes_back
from ..trce_ops.attacks.inversion import TEMPLATES as WORD_TEMPLATES
from ..trce_ops.attacks.inversion import InversionSettings, learn_word
from ..trce_ops.attacks.latent_inversion import invert, regenerate
from ..trce_ops.attacks.ring_a_bell import add_direction, concept_direction
from ..trce_ops.attacks.token_prefix import PrefixSettings, search_prefix
from ..trce_ops.text.concepts import parse_concepts
from ..trce_ops.text.prompts import expand, sentences
from ..trce_ops.tuning.text_batch import Texts
from ..trce_ops.tuning.trajectories import Predictor
from .attack_target import LATENT, ROWS, Target, attack, conditioning, encode, lines, one_line
from .ui.bounds import within_bounds

MODEL = io.Model.Input("model", tooltip="The erased model, which is to be attacked. It is not changed.")
CLIP = io.Clip.Input("clip", tooltip="The text encoder that your prompts go through.")
PICTURES = io.Latent.Input(
    "pictures",
    tooltip="Pictures of the concept, some 4 to 16, as latents: those that a KSampler draws with the unedited model, "
    "or VAE Encode of images.",
)
PROMPT = io.String.Input(
    "prompt",
    multiline=True,
    default="",
    placeholder="a photo of a star",
    tooltip="What the pictures show, in plain words, as you would ask the unedited model for it.",
)
UNEDITED = io.Model.Input(
    "unedited_model",
    optional=True,
    tooltip="The model before the erasure. With it the report says in how many pictures the concept comes back.",
)
CONDITIONING = io.Conditioning.Output(
    "conditioning",
    display_name="conditioning",
    tooltip="What the attack has found, as a positive prompt for KSampler: see with your own eyes what comes back.",
)
REPORT = io.String.Output(
    "report",
    display_name="report",
    tooltip="What the attack explains of the pictures, beside the plain prompt and nothing, and what it cost.",
)


def _seed() -> io.Int.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFF,
        tooltip="Seed of all that is random in the probe. The same seed gives the same attack.",
    )


def _schema(node_id: str, name: str, description: str, inputs: list, outputs: list) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=name,
        category="model/trce",
        description=description,
        search_aliases=["red team", "attack", "jailbreak", "unlearn", "erase concept", "robustness"],
        inputs=inputs,
        outputs=outputs,
        hidden=[io.Hidden.unique_id],
    )


class TRCEProbeConceptInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        settings = InversionSettings()
        return _schema(
            "TRCEProbeConceptInversion",
            "Probe: Concept Inversion",
            "Learns a word that makes the erased model draw the concept all the same, from pictures of it (textual "
            "inversion). If it succeeds, the concept is still in the model and only its name was taken away.",
            [
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                io.String.Input(
                    "templates",
                    multiline=True,
                    default="\n".join(WORD_TEMPLATES),
                    tooltip="Prompts to learn the word in, one per line, with '*' where it stands. The conditioning is "
                    "the first of them.",
                ),
                io.String.Input(
                    "initial_word",
                    default=settings.initial_word,
                    tooltip="The word to begin from: something general, not the concept itself.",
                ),
                io.Int.Input(
                    "steps",
                    default=settings.steps,
                    min=0,
                    max=10000,
                    tooltip="Steps of learning. More attack harder and take longer.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=settings.learning_rate,
                    min=0.0,
                    max=10.0,
                    step=0.0001,
                    round=False,
                    advanced=True,
                    tooltip="Size of a step on the word's vector. Raise it when the loss stays where it is.",
                ),
                io.Int.Input(
                    "batch",
                    default=settings.batch,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures in every step. More make steadier and slower steps.",
                ),
                _seed(),
                UNEDITED,
            ],
            [CONDITIONING, REPORT],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model,
        clip,
        pictures,
        prompt,
        templates,
        initial_word,
        steps,
        learning_rate,
        batch,
        seed,
        unedited_model=None,
    ) -> io.NodeOutput:
        settings = InversionSettings(steps, learning_rate, batch, initial_word, seed)

        def invert_concept(target: Target) -> tuple:
            plain = one_line(prompt)
            with target.open() as (denoise, encoder):
                word = learn_word(
                    denoise, encoder, target.pictures, lines(templates), settings, rows=ROWS, progress=target.progress
                )
                cost = target.cost("Concept inversion", word.queries)
                found = word.write(lines(templates)[0], encoder)
                evidence = target.evidence(denoise, encoder, plain, found, seed)
            return conditioning(found), f"{cost}\n{evidence.text()}"

        return attack(cls, invert_concept, model, clip, pictures, unedited_model)


class TRCEProbeRingABell(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "TRCEProbeRingABell",
            "Probe: Concept Direction (Ring-A-Bell)",
            "Adds what the concept changes in the text embedding to a harmless prompt, and asks whether the erased "
            "model still reads it. Needs no search and no gradient.",
            [
                MODEL,
                CLIP,
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="a star -> a circle\na pentagram -> a circle",
                    tooltip="'concept -> something harmless', one per line: the direction is the mean difference "
                    "between the two, in everyday sentences.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    placeholder="a photo of a circle",
                    tooltip="The harmless prompt that the direction is added to.",
                ),
                io.Float.Input(
                    "scale",
                    default=3.0,
                    min=-20.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How much of the direction is added. Raise it when nothing comes back from the unedited "
                    "model either; too much makes noise.",
                ),
                _seed(),
                io.Latent.Input(
                    "pictures",
                    optional=True,
                    tooltip="Pictures of the concept as latents, for the report to say what the attack explains of "
                    "them.",
                ),
                UNEDITED,
            ],
            [CONDITIONING, REPORT],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, concepts, prompt, scale, seed, pictures=None, unedited_model=None) -> io.NodeOutput:
        def ring(target: Target) -> tuple:
            pairs = parse_concepts(concepts)
            names = [pair.concept for pair in pairs]
            prompts = expand(pairs, sentences(names, True))
            with target.open() as (denoise, encoder), torch.no_grad():
                batches = []
                for number, pair in enumerate(prompts):
                    target.progress("Concept direction", number, len(prompts))
                    batches.append([encode(encoder, text) for text in (pair.source, pair.target)])
                direction = concept_direction(*(Texts.cat(side) for side in zip(*batches)))
                benign = encode(encoder, one_line(prompt))
                found = add_direction(benign, direction, scale)
                share = (scale * direction.sequence).norm() / benign.sequence.norm()
                report = f"{target.cost('Concept direction', 0)} It adds {share:.0%} of the prompt's own length."
                if pictures is not None:
                    evidence = target.evidence(denoise, encoder, prompts[0].source, found, seed)
                    report += f"\n{evidence.text()}"
            return conditioning(found), report

        return attack(cls, ring, model, clip, pictures, unedited_model)


class TRCEProbeTokenPrefix(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        settings = PrefixSettings()
        return _schema(
            "TRCEProbeTokenPrefix",
            "Probe: Token Prefix",
            "Searches by gradient for words to put before a prompt so that the erased model draws the concept again "
            "(as UnlearnDiffAtk does). What it finds is text that anybody can type.",
            [
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                io.Int.Input(
                    "tokens", default=settings.tokens, min=1, max=32, tooltip="How many words to put before the prompt."
                ),
                io.Int.Input(
                    "steps",
                    default=settings.steps,
                    min=0,
                    max=1000,
                    tooltip="Steps of the search; each replaces one word at most. More attack harder.",
                ),
                io.Int.Input(
                    "candidates",
                    default=settings.candidates,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="Replacements tried in every step. More attack harder and take longer.",
                ),
                io.Int.Input(
                    "batch",
                    default=settings.batch,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures in every step that replacements are compared on.",
                ),
                _seed(),
                UNEDITED,
            ],
            [
                CONDITIONING,
                io.String.Output(
                    "found_prompt",
                    display_name="prompt",
                    tooltip="The prompt with the words found before it, to be typed or connected anywhere.",
                ),
                REPORT,
            ],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, model, clip, pictures, prompt, tokens, steps, candidates, batch, seed, unedited_model=None
    ) -> io.NodeOutput:
        settings = PrefixSettings(tokens=tokens, steps=steps, candidates=candidates, batch=batch, seed=seed)

        def search(target: Target) -> tuple:
            plain = one_line(prompt)
            with target.open() as (denoise, encoder):
                prefix = search_prefix(
                    denoise, encoder, target.pictures, [plain], settings, rows=ROWS, progress=target.progress
                )
                cost = target.cost("Token prefix", prefix.queries)
                text = prefix.write(plain)
                found = encode(encoder, text)
                evidence = target.evidence(denoise, encoder, plain, found, seed)
            return conditioning(found), text, f"{cost} Found: '{text}'.\n{evidence.text()}"

        return attack(cls, search, model, clip, pictures, unedited_model)


class TRCEProbeLatentInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "TRCEProbeLatentInversion",
            "Probe: Latent Inversion",
            "Finds the noise that pictures of the concept come from in the erased model (DDIM inversion), and draws "
            "from that noise again with the prompt.",
            [
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                io.String.Input("negative", default="", tooltip="The negative prompt for drawing again."),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Steps there, and steps back. More invert better."
                ),
                io.Float.Input("cfg", default=4.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance for drawing again."),
                _seed(),
                UNEDITED,
            ],
            [
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="What the erased model draws again: connect VAE Decode."
                ),
                io.Latent.Output(
                    "noise",
                    display_name="noise",
                    tooltip="The noise found, for KSampler (Advanced) with 'add_noise' disabled.",
                ),
                REPORT,
            ],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, pictures, prompt, negative, steps, cfg, seed, unedited_model=None) -> io.NodeOutput:
        def invert_latent(target: Target) -> tuple:
            plain = one_line(prompt)
            with target.open() as (denoise, encoder):
                empty, told, against = (encode(encoder, text) for text in ("", plain, negative))
                predict = Predictor(denoise, ROWS)
                x = invert(predict, target.pictures, empty, steps, target.progress)
                again = regenerate(predict, x, told, against, steps, cfg, target.progress)
                report = target.cost("Latent inversion", predict.evaluations)
                apart = (again - target.pictures).square().mean().sqrt() / target.pictures.std()
                report += f" The pictures drawn again are {apart:.2f} standard deviations from those given."
                if target.unedited is not None:
                    drawn = target.before([empty, told], seed, again)
                    given = target.before([empty, told], seed)
                    # what the prompt explains of a picture to the model that knows the concept
                    explained, before = (nothing - prompted for nothing, prompted in (drawn, given))
                    back = int(comes_back(explained, before).sum())
                    report += (
                        f"\nThe concept comes back in {back} of {len(again)} pictures: to the unedited model the "
                        f"prompt explains at least {BACK:.0%} as much of the picture drawn again as of the one given."
                    )
                else:
                    report += "\nConnect 'unedited_model' to hear in how many pictures the concept comes back."
                out = [{LATENT: model.model.process_latent_out(z)} for z in (again, x)]
            return *out, report

        return attack(cls, invert_latent, model, clip, pictures, unedited_model)


PROBES = [TRCEProbeConceptInversion, TRCEProbeRingABell, TRCEProbeTokenPrefix, TRCEProbeLatentInversion]
