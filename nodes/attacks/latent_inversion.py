"""Probe: Latent Inversion: an attack that searches for the noise that the concept is drawn from."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.evidence import BACK, comes_back
from ...trce_ops.attacks.latent_inversion import invert, regenerate
from ...trce_ops.tuning.trajectories import Predictor
from ..host.pictures import SAMPLES
from ..inputs import output
from .probe import BLACK_BOX, CLIP, MODEL, PICTURES, PROBE, PROMPT, REPORT, SEED, UNEDITED, Probe
from .target import Target, encode, one_line


class TRCEProbeLatentInversion(Probe, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeLatentInversion",
            display_name="Probe: Latent Inversion",
            description="Finds the noise that pictures of the concept come from in the erased model (DDIM inversion), "
            "and draws from that noise again with the prompt.",
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
                    tooltip="Steps of the inversion, and of drawing again. More steps are more exact and take longer.",
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
                io.Int.Input(
                    "iterations",
                    default=1,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip="1 is DDIM inversion. With more, every step is solved again for the noise that leads "
                    "back to the pictures (fixed point). With 'cfg' at 0 they then come back without any prompt, but "
                    "so do nearly all pictures: compare with others.",
                ),
                BLACK_BOX,
            ],
            outputs=[
                output(io.Latent, "latent", "What the erased model draws from the noise: connect VAE Decode."),
                output(
                    io.Latent, "noise", "The noise that was found, for KSampler (Advanced) with 'add_noise' disabled."
                ),
                REPORT,
            ],
            **PROBE,
        )

    @classmethod
    def attack(cls, target: Target, prompt, negative, steps, cfg, seed=0, iterations=1, black_box=False) -> tuple:
        plain = one_line(prompt)
        with target.open(black_box) as (denoise, encoder):
            empty, positive, against = (encode(encoder, text) for text in ("", plain, negative))
            search = Predictor(denoise, denoise.at_once)
            noise = invert(search, target.pictures, empty, steps, target.progress, iterations)
            attacked = target.attacked()
            predict = Predictor(attacked, attacked.at_once)
            again = regenerate(predict, noise, positive, against, steps, cfg, target.progress)
            report = target.cost("Latent inversion", search.evaluations + predict.evaluations)
            apart = (again - target.pictures).square().mean().sqrt() / target.pictures.std()
            report += f" The pictures drawn again are {apart:.2f} standard deviations from those given."
            if target.unedited is not None:
                losses = [target.before([empty, positive], seed, pictures) for pictures in (again, target.pictures)]
                # how much the prompt explains of a picture to the model that knows the concept
                explained, before = (without - with_prompt for without, with_prompt in losses)
                back = int(comes_back(explained, before).sum())
                report += (
                    f"\nThe concept comes back in {back} of {len(again)} pictures: to the unedited model the prompt "
                    f"explains at least {BACK:.0%} as much of the picture drawn again as of the original picture."
                )
            else:
                report += "\nConnect 'unedited_model' to count the pictures in which the concept comes back."
            out = [{SAMPLES: target.model.model.process_latent_out(z)} for z in (again, noise)]
        return *out, report
