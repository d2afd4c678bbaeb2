"""Probe: Latent Inversion: an attack that searches for the noise that the concept is drawn from."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.evidence import BACK, comes_back
from ...trce_ops.attacks.latent_inversion import invert, regenerate
from ...trce_ops.tuning.trajectories import Predictor
from ..ui.bounds import within_bounds
from .inputs import ALIASES, CLIP, MODEL, PICTURES, PROMPT, REPORT, SEED, UNEDITED
from .target import LATENT, ROWS, Target, attack, encode, one_line


class TRCEProbeLatentInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeLatentInversion",
            display_name="Probe: Latent Inversion",
            category="model/trce",
            description="Finds the noise that pictures of the concept come from in the erased model (DDIM inversion), "
            "and draws from that noise again with the prompt.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                io.String.Input("negative", default="", tooltip="The negative prompt for drawing the pictures again."),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Steps to the noise, and steps back. More are more exact and take longer.",
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance for drawing again, as in KSampler.",
                ),
                SEED,
                UNEDITED,
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="What the erased model draws from the noise: connect VAE Decode.",
                ),
                io.Latent.Output(
                    "noise",
                    display_name="noise",
                    tooltip="The noise that was found, for KSampler (Advanced) with 'add_noise' disabled.",
                ),
                REPORT,
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, pictures, prompt, negative, steps, cfg, seed=0, unedited_model=None) -> io.NodeOutput:
        def invert_latent(target: Target) -> tuple:
            plain = one_line(prompt)
            with target.open() as (denoise, encoder):
                empty, prompted, against = (encode(encoder, text) for text in ("", plain, negative))
                predict = Predictor(denoise, ROWS)
                x = invert(predict, target.pictures, empty, steps, target.progress)
                again = regenerate(predict, x, prompted, against, steps, cfg, target.progress)
                report = target.cost("Latent inversion", predict.evaluations)
                apart = (again - target.pictures).square().mean().sqrt() / target.pictures.std()
                report += f" The pictures drawn again are {apart:.2f} standard deviations from those given."
                if target.unedited is not None:
                    drawn = target.before([empty, prompted], seed, again)
                    given = target.before([empty, prompted], seed)
                    # what the prompt explains of a picture to the model that knows the concept
                    explained, before = (without - with_prompt for without, with_prompt in (drawn, given))
                    back = int(comes_back(explained, before).sum())
                    report += (
                        f"\nThe concept comes back in {back} of {len(again)} pictures: to the unedited model the "
                        f"prompt explains at least {BACK:.0%} as much of the picture drawn again as of the one given."
                    )
                else:
                    report += "\nConnect 'unedited_model' to learn in how many pictures the concept comes back."
                out = [{LATENT: model.model.process_latent_out(z)} for z in (again, x)]
            return *out, report

        return attack(cls, invert_latent, model, clip, pictures, unedited_model)
