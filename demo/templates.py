"""The workflow templates, one function each, and the subgraph blueprint. Their notes are notes/NAME.md.

Five columns at most and 1000 high, for the frontend draws no text on nodes that it has to show at half their size.
"""

from __future__ import annotations

from dataclasses import replace

from graphs import Graph
from parts import (
    CONCEPTS,
    DEMO,
    DEMO_SIZE,
    FLOW,
    FLUX,
    FLUX_CLIP,
    FLUX_T5,
    KEEP,
    PROMPT,
    QWEN,
    SAMPLING,
    SD15,
    SDXL,
    Z_IMAGE,
    Start,
    compare,
    draw,
    erase,
    guns,
    note,
    sample,
    start,
    start_from_files,
)


def erase_a_concept(g: Graph) -> None:
    """Erase, look, save, share."""
    begun = start(g)
    erased = erase(g, begun)
    decoded = draw(g, begun, (760, 0), "KSampler with the erased model", erased[0])
    g.add("TRCESaveDelta", (760, 420), (300, 110), delta=erased[1], filename_prefix="cigarette")
    g.add("SaveImage", (1100, 0), (400, 500), images=decoded[0], filename_prefix="trce/erased")
    g.add("PreviewAny", (760, 590), (740, 360), "What was moved and kept", source=erased[2])


def compare_before_after(g: Graph) -> None:
    """Erase in one go, and see both sides at a glance."""
    begun = start(g)
    erased = erase(g, begun)
    compare(g, begun, erased)
    g.add("PreviewAny", (1460, 480), (360, 470), "What was moved and kept", source=erased[2])


def apply_a_saved_delta(g: Graph) -> None:
    """Somebody else's erasure on your model."""
    begun = start(g)
    delta = g.add("TRCELoadDelta", (360, 0), (360, 110), delta_name="example_cigarette.safetensors")
    applied = g.add("TRCEApplyDelta", (360, 230), (360, 160), model=begun.model, delta=delta[0], clip=begun.clip)
    decoded = draw(g, begun, (760, 0), "KSampler with the erased model", applied[0])
    g.add("SaveImage", (1100, 0), (400, 500), images=decoded[0], filename_prefix="trce/applied")


def apply_with_lora_and_controlnet(g: Graph) -> None:
    """An erasure among the other things that people put around a model."""
    g.note(note(g), (0, 0), (320, 480))
    loaded = g.add("CheckpointLoaderSimple", (0, 530), (320, 100), ckpt_name=DEMO)
    lora = g.add(
        "LoraLoader", (360, 0), (320, 130), model=loaded[0], clip=loaded[1], lora_name="example_line_art.safetensors"
    )
    delta = g.add("TRCELoadDelta", (360, 165), (320, 110), delta_name="example_cigarette.safetensors")
    control = g.add("ControlNetLoader", (360, 360), (320, 60), control_net_name="trce_demo_outline.safetensors")
    image = g.add("LoadImage", (360, 480), (320, 340), image="example_outline.png")
    applied = g.add("TRCEApplyDelta", (720, 0), (320, 160), model=lora[0], delta=delta[0], clip=lora[1])
    text = "a drawing of a key in the 3d style on a yellow background"
    positive = g.add("CLIPTextEncode", (720, 210), (320, 120), "Prompt", text=text, clip=lora[1])
    negative = g.add("CLIPTextEncode", (720, 380), (320, 90), "Negative prompt", text="", clip=lora[1])
    latent = g.add("EmptyLatentImage", (720, 520), (320, 110), width=DEMO_SIZE, height=DEMO_SIZE, batch_size=4)
    steered = g.add(
        "ControlNetApplyAdvanced",
        (1080, 0),
        (300, 190),
        positive=positive[0],
        negative=negative[0],
        control_net=control[0],
        image=image[0],
    )
    begun = Start(loaded[0], lora[1], loaded[2], steered[0], steered[1], latent[0], DEMO_SIZE)
    decoded = draw(g, begun, (1080, 250), "KSampler with the erased model", applied[0])
    g.add("SaveImage", (1420, 0), (380, 460), images=decoded[0], filename_prefix="trce/applied")


def erase_from_a_preset(g: Graph) -> None:
    """Lists to start from, for what to erase and what to keep."""
    begun = start(
        g,
        checkpoint=SD15,
        text="a knight after the battle, oil painting",
        size=512,
        batch=1,
    )
    preset, kept = "violence", "red, tools and sport (with violence)"
    keep = g.add("TRCEKeepConcepts", (360, 500), (360, 450), preset=kept)
    concepts = g.add(
        "TRCEEraseConcepts",
        (360, 0),
        (360, 450),
        preset=preset,
        clip=begun.clip,
        keep=keep[0],
    )
    erased = g.add(
        "TRCEErase",
        (760, 0),
        (320, 950),
        model=begun.model,
        clip=begun.clip,
        concepts=concepts[0],
        keep=keep[0],
    )
    sampling = SAMPLING | {"cfg": 7.0}
    pictures = []
    for top, title, model in ((0, "Before", begun.model), (420, "After", erased[0])):
        pictures.append(draw(g, begun, (1120, top), title, model, sampling=sampling)[0])
    g.add("ImageCompare", (1460, 0), (360, 420), image_a=pictures[0], image_b=pictures[1])
    g.add("PreviewImage", (1460, 480), (360, 220), "After", images=pictures[1])
    g.add("PreviewAny", (1460, 750), (360, 200), "What is erased", source=concepts[1])


def erase_from_sdxl(g: Graph) -> None:
    """SDXL: both text encoders and the pooled vector."""
    begun = start(
        g,
        checkpoint=SDXL,
        text="a cowboy drawing a gun in front of a saloon, evening light, photograph",
        size=1024,
        batch=1,
    )
    erased = guns(g, begun)
    compare(g, begun, erased, SAMPLING | {"steps": 25, "cfg": 6.5})
    g.add("TRCESaveDelta", (1460, 480), (360, 110), delta=erased[1], filename_prefix="sdxl/no-guns")
    g.add("PreviewAny", (1460, 650), (360, 300), "What was moved and kept", source=erased[2])


def erase_from_flow(g: Graph) -> None:
    """A flow transformer: both sides, and the erasure as a LoRA."""
    begun = start(g, checkpoint=FLOW)
    erased = erase(g, begun)
    compare(g, begun, erased)
    lora = g.add("TRCEDeltaToLoRA", (1460, 480), (360, 150), model=begun.model, delta=erased[1])
    g.add("SaveLoRA", (1460, 680), (360, 110), lora=lora[0], prefix="loras/no-cigarette", steps=0)
    g.add("PreviewAny", (1460, 830), (360, 120), "What was moved and kept", source=erased[2])


def erase_from_z_image(g: Graph) -> None:
    """Z-Image Turbo, in the files that ComfyUI's own template names."""
    text = "a cowboy drawing a gun in front of a saloon, evening light, photograph"
    begun = start_from_files(g, Z_IMAGE, ("CLIPLoader", {"clip_name": QWEN, "type": "lumina2"}), text, 1024)
    shifted = g.add("ModelSamplingAuraFlow", (360, 740), (320, 60), model=begun.model, shift=3.0)
    begun = replace(begun, model=shifted[0])
    erased = guns(g, begun)
    turbo = {"steps": 8, "cfg": 1.0, "sampler_name": "res_multistep", "scheduler": "simple"}
    compare(g, begun, erased, SAMPLING | turbo)
    g.add("PreviewAny", (1460, 480), (360, 470), "What was moved and kept", source=erased[2])


def erase_from_flux(g: Graph) -> None:
    """Flux.1 dev, with its guidance."""
    text = "a cowboy drawing a gun in front of a saloon, evening light, photograph"
    clips = {"clip_name1": FLUX_CLIP, "clip_name2": FLUX_T5, "type": "flux"}
    begun = start_from_files(g, FLUX, ("DualCLIPLoader", clips), text, 1024)
    guided = g.add("FluxGuidance", (360, 740), (320, 60), conditioning=begun.positive, guidance=3.5)
    begun = replace(begun, positive=guided[0])
    erased = guns(g, begun)
    compare(g, begun, erased, SAMPLING | {"cfg": 1.0, "scheduler": "simple"})
    g.add("PreviewAny", (1460, 480), (360, 470), "What was moved and kept", source=erased[2])


def measure_an_erasure(g: Graph) -> None:
    """A contact sheet and figures: what went, what stayed."""
    g.note(note(g), (0, 0), (320, 330))
    loaded = g.add("CheckpointLoaderSimple", (0, 380), (320, 100), ckpt_name=DEMO)
    settings = g.add("TRCESettings", (360, 760), (360, 190), resolution=DEMO_SIZE)
    erased = g.add(
        "TRCEErase",
        (360, 0),
        (360, 710),
        model=loaded[0],
        clip=loaded[1],
        concepts=CONCEPTS,
        keep=KEEP,
        settings=settings[0],
    )
    report = g.add(
        "TRCEReport",
        (760, 0),
        (400, 660),
        before=loaded[0],
        after=erased[0],
        clip=loaded[1],
        vae=loaded[2],
        concept_prompts=f"{PROMPT}\na drawing of a cigaret in the noto style on a yellow background\n"
        "a drawing of finely ground tobacco wrapped in paper in the 3d style on a pink background",
        kept_prompts="a drawing of a pencil in the noto style on a white background\n"
        "a drawing of fire in the twemoji style on a grey background\n"
        "a drawing of a tiger in the noto style on a green background",
        seed=7,
        cfg=4.0,
        width=DEMO_SIZE,
        height=DEMO_SIZE,
    )
    g.add("SaveImage", (1200, 0), (560, 660), images=report[0], filename_prefix="trce/report")
    g.add("PreviewAny", (760, 720), (1000, 230), "The report", source=report[1])


def red_team_probe(g: Graph) -> None:
    """Attack your own erasure before others do."""
    begun = start(g)
    erased = erase(g, begun)
    sampled = sample(g, begun, (760, 0), (300, 270), "The unedited model draws it")
    shared = {"model": erased[0], "clip": begun.clip, "pictures": sampled[0], "unedited_model": begun.model}
    harmless = "a drawing of a lollipop in the 3d style on a blue background"
    direction = g.add("TRCEProbeRingABell", (1100, 0), (340, 400), **shared, concepts=CONCEPTS, prompt=harmless)
    word = g.add("TRCEProbeConceptInversion", (1480, 0), (340, 400), **shared, prompt=PROMPT, steps=100)
    for left, top, probe, title in (
        (1100, 320, direction, "With the direction"),
        (1480, 640, word, "With the new word"),
    ):
        decoded = draw(g, begun, (left, 450), title, erased[0], probe[0])
        g.add("PreviewImage", (left, 860), (340, 300), title, images=decoded[0])
        g.add("PreviewAny", (760, top), (300, 270), f"{title}: report", source=probe[1])


def erase_from_pictures(g: Graph) -> None:
    """Erase what pictures show, without its name; the prompt only describes it."""
    begun = start(g, text="rolled tobacco to smoke")
    named = g.add("CLIPTextEncode", (360, 0), (320, 120), "What the pictures show", text="a cigarette", clip=begun.clip)
    latent = g.add("EmptyLatentImage", (360, 170), (320, 110), width=DEMO_SIZE, height=DEMO_SIZE, batch_size=8)
    shown = replace(begun, positive=named[0], latent=latent[0])
    sampled = sample(g, shown, (360, 330), (320, 270), "Pictures of what to erase")
    settings = g.add("TRCESettings", (360, 650), (320, 190), resolution=DEMO_SIZE)
    erased = g.add(
        "TRCEEraseFromPictures",
        (720, 0),
        (380, 900),
        model=begun.model,
        clip=begun.clip,
        pictures=sampled[0],
        safe="a lollipop",
        keep=KEEP,
        settings=settings[0],
        starts=1,
        steps=40,
        initial_word="tobacco",
        batch=2,
    )
    for top, title, model in ((0, "Before", begun.model), (420, "After", erased[0])):
        decoded = draw(g, begun, (1140, top), title, model)
        g.add("PreviewImage", (1480, top), (320, 360), title, images=decoded[0])
    g.add("PreviewAny", (1840, 0), (360, 470), "What was learned and moved", source=erased[2])


def erase_and_compare(g: Graph) -> None:
    """The blueprint: a model and a prompt in, the picture before and after out."""
    loaded = [g.input(name, name.upper()) for name in ("model", "clip", "vae")]
    model, clip, vae = loaded
    concepts = g.input("concepts", "STRING", "a gun -> an umbrella\na pistol -> an umbrella")
    keep = g.input("keep", "STRING", "an umbrella\na camera\na soldier")
    mode = g.input("mode", "COMBO", "closed form")
    prompt = g.input("prompt", "STRING", "a cowboy drawing a gun in front of a saloon")
    width, height = (g.input(name, "INT", 512) for name in ("width", "height"))
    seed, steps = g.input("seed", "INT", 7), g.input("steps", "INT", 20)
    cfg = g.input("cfg", "FLOAT", 7.0)
    erased = g.add("TRCEErase", (0, 0), (360, 600), model=model, clip=clip, concepts=concepts, keep=keep, mode=mode)
    positive = g.add("CLIPTextEncode", (0, 650), (360, 120), "Prompt", text=prompt, clip=clip)
    negative = g.add("CLIPTextEncode", (0, 820), (360, 90), "Negative prompt", text="", clip=clip)
    latent = g.add("EmptyLatentImage", (0, 960), (360, 110), width=width, height=height)
    begun = Start(model, clip, vae, positive[0], negative[0], latent[0], 512)
    sampling = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "normal"}
    for top, name, drawn in ((0, "before", model), (420, "after", erased[0])):
        g.output(name, draw(g, begun, (420, top), name.capitalize(), drawn, sampling=sampling)[0])
    g.output("erased_model", erased[0])
    g.output("delta", erased[1])
    g.output("report", erased[2])


TEMPLATES = {
    "erase-a-concept": erase_a_concept,
    "compare-before-after": compare_before_after,
    "apply-a-saved-delta": apply_a_saved_delta,
    "apply-with-lora-and-controlnet": apply_with_lora_and_controlnet,
    "erase-from-a-preset": erase_from_a_preset,
    "erase-from-sdxl": erase_from_sdxl,
    "erase-from-flow": erase_from_flow,
    "erase-from-z-image": erase_from_z_image,
    "erase-from-flux": erase_from_flux,
    "measure-an-erasure": measure_an_erasure,
    "red-team-probe": red_team_probe,
    "erase-from-pictures": erase_from_pictures,
}
BLUEPRINTS = {
    "erase-and-compare": (
        erase_and_compare,
        "Erase and Compare",
        "Erases what you name, and draws the same prompt and seed with the model before and after.",
    )
}
