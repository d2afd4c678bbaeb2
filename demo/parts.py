"""What several templates have in common: models, concepts, and the columns of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphs import Graph, Link, Node

NOTES = Path(__file__).with_name("notes")
DEMO, FLOW, DEMO_SIZE = "trce_demo_sd15.safetensors", "trce_demo_flow.safetensors", 64
SDXL = "sd_xl_base_1.0.safetensors"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
Z_IMAGE, QWEN = "z_image_turbo_bf16.safetensors", "qwen_3_4b.safetensors"
FLUX, FLUX_CLIP, FLUX_T5 = "flux1-dev.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors"
FLUX_VAE = "ae.safetensors"  # of both
HUB = "https://huggingface.co/Comfy-Org"
MODELS = {  # where a file that a template names can be had: folder, address
    SDXL: (
        "checkpoints",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    ),
    SD15: (
        "checkpoints",
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
        "v1-5-pruned-emaonly-fp16.safetensors",
    ),
    Z_IMAGE: ("diffusion_models", f"{HUB}/z_image_turbo/resolve/main/split_files/diffusion_models/{Z_IMAGE}"),
    QWEN: ("text_encoders", f"{HUB}/z_image_turbo/resolve/main/split_files/text_encoders/{QWEN}"),
    FLUX_VAE: ("vae", f"{HUB}/z_image_turbo/resolve/main/split_files/vae/{FLUX_VAE}"),
    FLUX: ("diffusion_models", f"{HUB}/flux1-dev/resolve/main/{FLUX}"),
    FLUX_CLIP: (
        "text_encoders",
        f"https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main/{FLUX_CLIP}",
    ),
    FLUX_T5: ("text_encoders", f"https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main/{FLUX_T5}"),
}

CONCEPTS = "a cigarette -> a lollipop\na cigaret -> a lollipop\ncigarettes -> a lollipop"
KEEP = "fire\na pencil\na syringe\na lollipop\na carrot\na knife\na guitar"
PROMPT = "a drawing of a cigarette in the 3d style on a blue background"
SAMPLING = {"seed": 7, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}


def note(g: Graph) -> str:
    """The text that tells a user what to do with the template."""
    return (NOTES / f"{g.name}.md").read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class Start:
    """The first column of a template."""

    model: Link
    clip: Link
    vae: Link
    positive: Link
    negative: Link
    latent: Link
    size: int  # of the pictures, in pixels


def start(g: Graph, checkpoint: str = DEMO, text: str = PROMPT, size: int = DEMO_SIZE, batch: int = 4) -> Start:
    g.note(note(g), (0, 0), (320, 330))
    loaded = g.add("CheckpointLoaderSimple", (0, 380), (320, 100), ckpt_name=checkpoint)
    positive = g.add("CLIPTextEncode", (0, 530), (320, 120), "Prompt", text=text, clip=loaded[1])
    negative = g.add("CLIPTextEncode", (0, 700), (320, 90), "Negative prompt", text="", clip=loaded[1])
    latent = g.add("EmptyLatentImage", (0, 840), (320, 110), width=size, height=size, batch_size=batch)
    return Start(*(loaded[slot] for slot in range(3)), positive[0], negative[0], latent[0], size)


def start_from_files(g: Graph, network: str, clip: tuple[str, dict[str, str]], text: str, size: int) -> Start:
    """The first column for a model in three files. clip: the loader of its text encoders, and what that is given."""
    kind, given = clip
    g.note(note(g), (0, 0), (320, 300))
    model = g.add("UNETLoader", (0, 340), (320, 90), unet_name=network)
    encoders = g.add(kind, (0, 470), (320, 130), **given)
    vae = g.add("VAELoader", (0, 640), (320, 60), vae_name=FLUX_VAE)
    positive = g.add("CLIPTextEncode", (0, 740), (320, 110), "Prompt", text=text, clip=encoders[0])
    negative = g.add("CLIPTextEncode", (0, 890), (320, 70), "Negative prompt", text="", clip=encoders[0])
    latent = g.add("EmptySD3LatentImage", (360, 840), (320, 110), width=size, height=size)
    return Start(model[0], encoders[0], vae[0], positive[0], negative[0], latent[0], size)


def erase(g: Graph, start: Start, **given: Any) -> Node:
    """TRCE Erase; for the demo model with settings that say which size that draws."""
    given = {"concepts": CONCEPTS, "keep": KEEP, "model": start.model, "clip": start.clip} | given
    if start.size == DEMO_SIZE:
        given["settings"] = g.add("TRCESettings", (360, 760), (360, 190), resolution=DEMO_SIZE)[0]
    return g.add("TRCEErase", (360, 0), (360, 710), **given)


def guns(g: Graph, start: Start) -> Node:
    """TRCE Erase for a thing that everybody knows from public models."""
    concepts = "\n".join(
        f"{word} -> an umbrella" for word in ("a gun", "a pistol", "a revolver", "a rifle", "a firearm")
    )
    keep = "an umbrella\na hair dryer\na camera\na walking stick\na drill\na cowboy\na soldier\na police officer"
    return erase(g, start, concepts=concepts, keep=keep)


def sample(g: Graph, start: Start, at: tuple[int, int], size: tuple[int, int], title: str) -> Node:
    """Latents by the unedited model."""
    connections = {"positive": start.positive, "negative": start.negative, "latent_image": start.latent}
    return g.add("KSampler", at, size, title, model=start.model, **SAMPLING, **connections)


def draw(
    g: Graph,
    start: Start,
    at: tuple[int, int],
    title: str,
    model: Link,
    positive: Link | None = None,
    sampling: dict[str, Any] = SAMPLING,
) -> Node:
    """KSampler with VAE Decode below it."""
    connections = {"positive": positive or start.positive, "negative": start.negative, "latent_image": start.latent}
    sampled = g.add("KSampler", at, (300, 270), title, model=model, **sampling, **connections)
    return g.add("VAEDecode", (at[0], at[1] + 310), (300, 50), samples=sampled[0], vae=start.vae)


def compare(g: Graph, start: Start, erased: Node, sampling: dict[str, Any] = SAMPLING) -> None:
    """The same seeds before and after, as pictures side by side and in Compare Images."""
    pictures = []
    for top, title, model in ((0, "Before", start.model), (420, "After", erased[0])):
        decoded = draw(g, start, (760, top), title, model, sampling=sampling)
        g.add("PreviewImage", (1100, top), (320, 360), title, images=decoded[0])
        pictures.append(decoded[0])
    g.add("ImageCompare", (1460, 0), (360, 420), image_a=pictures[0], image_b=pictures[1])
