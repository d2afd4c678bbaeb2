"""Writes the workflow templates: `python demo/build_templates.py [NAME ...] [--draw]`.

A template is described once, below, and written twice: as a graph for the UI (workflows/NAME.json) and in API format
(workflows/api/NAME.json). Which inputs a node has, and in which order, is asked of a real ComfyUI, so that running
this again after a node has gained an input brings the templates up to date. With --draw they are run,
without erasing and with, and the first pictures become the thumbnails (workflows/NAME.jpg).
"""

from __future__ import annotations

import argparse
import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from draw_banner import picture
from PIL import Image, ImageDraw, ImageFont
from run_demo import load_tools

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / "workflows"
EXAMPLES = ROOT / "demo" / "examples"
PACK = "comfyui-trce"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
GREEN, SAND = {"color": "#232", "bgcolor": "#353"}, {"color": "#432", "bgcolor": "#000"}

DEMO = "trce_demo_sd15.safetensors"
SDXL = "sd_xl_base_1.0.safetensors"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SEEDS = ("seed", "noise_seed")  # which the frontend gives a control even where the node asks for none
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
}

STAR = "\n".join(f"{word} -> a circle" for word in ("a star", "a pentagram", "an asterisk", "a starburst", "a sparkle"))
OTHERS = "a square\na triangle\na heart\na cross\na crescent\nan hourglass\na circle"
PROMPT = "a sticker of a solid yellow star on a black background"


@dataclass(frozen=True)
class Node:
    """A node of a graph that is being described; node[i] is its i-th output, to be connected to an input."""

    id: int

    def __getitem__(self, slot: int) -> tuple[int, int]:
        return self.id, slot


class NotHere(Exception):
    """This ComfyUI lacks a node of the template."""


class Graph:
    """A workflow, written down node by node. Inputs that are not given have their defaults."""

    def __init__(self, name: str, info: dict[str, Any], versions: dict[str, str]) -> None:
        self.name, self.info, self.versions = name, info, versions
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.api: dict[str, Any] = {}

    def add(self, kind: str, at: tuple[int, int], size: tuple[int, int], title: str = "", **given: Any) -> Node:
        """A node of type `kind` at a place of the canvas; `given` are connections (node[slot]) and widget values."""
        if kind not in self.info:
            raise NotHere(f"{self.name}: not written, for this ComfyUI has no {kind}")
        node_id, known, pack = len(self.nodes) + 1, self.info[kind], kind.startswith("TRCE")
        inputs, values, sent, models = [], [], {}, []
        declared = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
        if unknown := set(given) - set(declared):
            raise KeyError(f"{self.name}: {kind} has no input {unknown}, it has {list(declared)}")
        for name, (sort, *rest) in declared.items():
            options = rest[0] if rest else {}
            if sort == "IMAGECOMPARE":
                values.append([[], []])
                sent[name] = {"__value__": ["", ""]}
                continue
            widget = (isinstance(sort, list) or sort in WIDGETS) and not options.get("forceInput")
            entry = {"name": name, "type": "COMBO" if isinstance(sort, list) else sort, "link": None}
            if "COMFY_MATCHTYPE" in str(sort):
                entry["type"] = "*"
            if widget:
                entry["widget"] = {"name": name}
            linked = isinstance(given.get(name), tuple)
            if linked:
                source, slot = given[name]
                self.links.append([len(self.links) + 1, source, slot, node_id, len(inputs), None])
                entry["link"] = len(self.links)
                sent[name] = [str(source), slot]
            if widget:
                choices = sort if isinstance(sort, list) else options.get("options", [""])
                default = options.get("default", choices[0] if choices else "") if sort != "STRING" else ""
                value = options.get("default", default) if linked else given.get(name, options.get("default", default))
                values.append(value)
                if options.get("control_after_generate") or name in SEEDS:
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
                if not linked:
                    sent[name] = value
                if value in MODELS:
                    folder, address = MODELS[value]
                    models.append({"name": value, "url": address, "directory": folder})
            inputs.append(entry)
        properties = {"cnr_id": PACK if pack else "comfy-core", "ver": self.versions["pack" if pack else "core"]}
        properties["Node name for S&R"] = kind
        if models:
            properties["models"] = models
        outputs = [
            {"name": name, "type": sort, "links": []}
            for name, sort in zip(known["output_name"], known["output"], strict=True)
        ]
        self.nodes.append(
            {"id": node_id, "type": kind, "pos": list(at), "size": list(size), "flags": {}, "order": node_id - 1}
            | {"mode": 0, "inputs": inputs, "outputs": outputs}
            | {"properties": properties, "widgets_values": values}
            | ({"title": title} if title else {})
            | (GREEN if pack else {})
        )
        meta = {"title": title or known["display_name"]}
        self.api[str(node_id)] = {"class_type": kind, "inputs": sent, "_meta": meta}
        return Node(node_id)

    def note(self, text: str, at: tuple[int, int], size: tuple[int, int], title: str = "Read me") -> None:
        node_id = len(self.nodes) + 1
        self.nodes.append(
            {"id": node_id, "type": "MarkdownNote", "pos": list(at), "size": list(size), "flags": {}}
            | {"order": node_id - 1, "mode": 0, "inputs": [], "outputs": [], "title": title, "properties": {}}
            | {"widgets_values": [text], **SAND}
        )

    def write(self) -> None:
        for link in self.links:
            number, source, slot = link[:3]
            output = self.nodes[source - 1]["outputs"][slot]
            output["links"].append(number)
            link[5] = output["type"]
        graph = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.8, "offset": [60, 120]}},
            "version": 0.4,
        }
        (WORKFLOWS / f"{self.name}.json").write_text(json.dumps(graph, indent=1) + "\n", encoding="utf-8")
        (WORKFLOWS / "api" / f"{self.name}.json").write_text(json.dumps(self.api, indent=2) + "\n", encoding="utf-8")


# The templates ---------------------------------------------------------------------------------------------------
#
# Five columns at most and 1000 high, for the frontend draws no text on nodes that it has to show at half their size.

SAMPLING = {"seed": 7, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}


@dataclass(frozen=True)
class Start:
    """The first column of a template."""

    model: tuple[int, int]
    clip: tuple[int, int]
    vae: tuple[int, int]
    positive: tuple[int, int]
    negative: tuple[int, int]
    latent: tuple[int, int]


def _start(g: Graph, note: str, checkpoint: str = DEMO, text: str = PROMPT, size: int = 64, batch: int = 4) -> Start:
    g.note(note, (0, 0), (320, 330))
    loaded = g.add("CheckpointLoaderSimple", (0, 380), (320, 100), ckpt_name=checkpoint)
    positive = g.add("CLIPTextEncode", (0, 530), (320, 120), "Prompt", text=text, clip=loaded[1])
    negative = g.add("CLIPTextEncode", (0, 700), (320, 90), "Negative prompt", text="", clip=loaded[1])
    latent = g.add("EmptyLatentImage", (0, 840), (320, 110), width=size, height=size, batch_size=batch)
    return Start(*(loaded[slot] for slot in range(3)), positive[0], negative[0], latent[0])


def _erase(g: Graph, start: Start, **given: Any) -> Node:
    given = {"concepts": STAR, "keep": OTHERS, "tune_resolution": 64} | given
    return g.add("TRCEErase", (360, 0), (360, 950), model=start.model, clip=start.clip, **given)


def _draw(
    g: Graph,
    start: Start,
    at: tuple[int, int],
    title: str,
    model: tuple[int, int],
    positive: tuple[int, int] | None = None,
    sampling: dict[str, Any] = SAMPLING,
) -> Node:
    """KSampler with VAE Decode below it."""
    connections = {"positive": positive or start.positive, "negative": start.negative, "latent_image": start.latent}
    sampled = g.add("KSampler", at, (300, 270), title, model=model, **sampling, **connections)
    return g.add("VAEDecode", (at[0], at[1] + 310), (300, 50), samples=sampled[0], vae=start.vae)


def _compare(g: Graph, start: Start, erased: Node, sampling: dict[str, Any] = SAMPLING) -> None:
    """The same seeds before and after, as pictures side by side and in Compare Images."""
    pictures = []
    for top, title, model in ((0, "Before", start.model), (420, "After", erased[0])):
        decoded = _draw(g, start, (760, top), title, model, sampling=sampling)
        g.add("PreviewImage", (1100, top), (320, 360), title, images=decoded[0])
        pictures.append(decoded[0])
    g.add("ImageCompare", (1460, 0), (360, 420), image_a=pictures[0], image_b=pictures[1])


def erase_a_concept(g: Graph) -> None:
    """Erase, look, save, share."""
    start = _start(
        g,
        "## Erase, save, share\n\n"
        "Press **Run** (top right): the demo model learns to draw circles where you ask for stars, in a minute or two "
        "on a CPU. With your own model:\n\n"
        "1. Choose the checkpoint, and its size in **Empty Latent Image** (demo 64, SD1.5 512, SDXL 1024).\n"
        "2. In **TRCE Erase** write what should go, one a line: `concept -> what to draw instead`. Synonyms get lines "
        "of their own. What is close to it and must stay goes into **keep**.\n"
        "3. **Run**. The picture comes from the erased model.\n\n"
        "**Save Erased Delta** has written a small file into `models/erased_deltas`. That file is the erasure: give it "
        "away; the template *apply-a-saved-delta* uses it.",
    )
    erased = _erase(g, start)
    decoded = _draw(g, start, (760, 0), "KSampler with the erased model", erased[0])
    g.add("TRCESaveDelta", (760, 420), (300, 110), delta=erased[1], filename_prefix="star")
    g.add("SaveImage", (1100, 0), (400, 500), images=decoded[0], filename_prefix="trce/erased")
    g.add("PreviewAny", (760, 590), (740, 360), "What was moved and kept", source=erased[2])


def compare_before_after(g: Graph) -> None:
    """Erase in one go, and see both sides at a glance."""
    start = _start(
        g,
        "## Before and after\n\n"
        "Press **Run** (top right). Both samplers have the same seed and the same prompt: whatever differs is the "
        "erasure. In **Compare Images** move the mouse from side to side (it needs *Nodes 2.0*, in the menu).\n\n"
        "Then change the prompt and run again:\n\n"
        "* something that only describes it: *a sheriff badge that guides the sailors*\n"
        "* something else, which should stay: *a sticker of a solid red heart on a gray wall*\n\n"
        "What goes and what stays is written in **TRCE Erase**.",
    )
    erased = _erase(g, start)
    _compare(g, start, erased)
    g.add("PreviewAny", (1460, 480), (360, 470), "What was moved and kept", source=erased[2])


def apply_a_saved_delta(g: Graph) -> None:
    """Somebody else's erasure on your model."""
    start = _start(
        g,
        "## Apply a saved delta\n\n"
        "Press **Run**: the example delta erases stars.\n\n"
        "Put the file that you were given, or made with *erase-a-concept*, into `models/erased_deltas`, press **R**, "
        "and choose it in **Load Erased Delta**.\n\n"
        "It works on every checkpoint with the same text encoder. With **clip** connected, a delta made for another "
        "encoder is refused.\n\n"
        "**strength** fades the erasure: 0 is the model as it was. Several Apply nodes in a row add up.",
    )
    delta = g.add("TRCELoadDelta", (360, 0), (360, 110), delta_name="example_star.safetensors")
    applied = g.add("TRCEApplyDelta", (360, 230), (360, 160), model=start.model, delta=delta[0], clip=start.clip)
    decoded = _draw(g, start, (760, 0), "KSampler with the erased model", applied[0])
    g.add("SaveImage", (1100, 0), (400, 500), images=decoded[0], filename_prefix="trce/applied")


def apply_with_lora_and_controlnet(g: Graph) -> None:
    """An erasure among the other things that people put around a model."""
    g.note(
        "## LoRA, erasure, ControlNet\n\n"
        "Press **Run**: the example LoRA stripes everything, the ControlNet holds the outline, the prompt asks for a "
        "heart. Then ask for a *star*: the erasure draws none.\n\n"
        "**Order.** A LoRA *before* Apply Erased Delta is erased with the model. One *after* it keeps what it knows, "
        "the erased thing too.\n\n"
        "**clip** is the CLIP that the prompts go through. If your LoRA changes the text encoder, the check says so: "
        "take the CLIP before the LoRA, or turn on *allow_other_encoder* (advanced).\n\n"
        "**ControlNet** has weights of its own, which an erasure does not reach: with a strong one, look twice.\n\n"
        "The files beginning with *example* and *trce_demo* come with `python dev.py serve`. In your own ComfyUI "
        "choose yours.",
        (0, 0),
        (320, 480),
    )
    loaded = g.add("CheckpointLoaderSimple", (0, 530), (320, 100), ckpt_name=DEMO)
    lora = g.add(
        "LoraLoader", (360, 0), (320, 130), model=loaded[0], clip=loaded[1], lora_name="example_striped.safetensors"
    )
    delta = g.add("TRCELoadDelta", (360, 165), (320, 110), delta_name="example_star.safetensors")
    control = g.add("ControlNetLoader", (360, 360), (320, 60), control_net_name="trce_demo_outline.safetensors")
    image = g.add("LoadImage", (360, 480), (320, 340), image="example_outline.png")
    applied = g.add("TRCEApplyDelta", (720, 0), (320, 160), model=lora[0], delta=delta[0], clip=lora[1])
    text = "a sticker of a solid yellow heart on a black background"
    positive = g.add("CLIPTextEncode", (720, 210), (320, 120), "Prompt", text=text, clip=lora[1])
    negative = g.add("CLIPTextEncode", (720, 380), (320, 90), "Negative prompt", text="", clip=lora[1])
    latent = g.add("EmptyLatentImage", (720, 520), (320, 110), width=64, height=64, batch_size=4)
    steered = g.add(
        "ControlNetApplyAdvanced",
        (1080, 0),
        (300, 190),
        positive=positive[0],
        negative=negative[0],
        control_net=control[0],
        image=image[0],
    )
    start = Start(loaded[0], lora[1], loaded[2], steered[0], steered[1], latent[0])
    decoded = _draw(g, start, (1080, 250), "KSampler with the erased model", applied[0])
    g.add("SaveImage", (1420, 0), (380, 460), images=decoded[0], filename_prefix="trce/applied")


def erase_from_a_preset(g: Graph) -> None:
    """Lists to start from, for what to erase and what to keep."""
    start = _start(
        g,
        "## Erase from a preset\n\n"
        "1. Choose a checkpoint.\n"
        "2. In **Erase Concepts** choose a preset: its list is written below, one concept a line with what to draw "
        "instead. Read it, change it. *neighbours* adds what the text encoder holds to be nearest.\n"
        "3. In **Keep Concepts** choose what must stay.\n"
        "4. **Run**. The lists that were used stand at the right.\n\n"
        "A synonym or keep list that a language model wrote goes into *generated*: connect Generate Text.",
        checkpoint=SD15,
        text="a knight after the battle, oil painting",
        size=512,
        batch=1,
    )
    preset, kept = "violence", "red, tools and sport (with violence)"
    keep = g.add("TRCEKeepConcepts", (360, 500), (360, 450), preset=kept, keep=_preset(g, "TRCEKeepConcepts", kept))
    concepts = g.add(
        "TRCEEraseConcepts",
        (360, 0),
        (360, 450),
        preset=preset,
        concepts=_preset(g, "TRCEEraseConcepts", preset),
        clip=start.clip,
        keep=keep[0],
    )
    erased = g.add(
        "TRCEErase",
        (760, 0),
        (320, 950),
        model=start.model,
        clip=start.clip,
        concepts=concepts[0],
        keep=keep[0],
    )
    sampling = SAMPLING | {"cfg": 7.0}
    pictures = []
    for top, title, model in ((0, "Before", start.model), (420, "After", erased[0])):
        pictures.append(_draw(g, start, (1120, top), title, model, sampling=sampling)[0])
    g.add("ImageCompare", (1460, 0), (360, 420), image_a=pictures[0], image_b=pictures[1])
    g.add("PreviewImage", (1460, 480), (360, 220), "After", images=pictures[1])
    g.add("PreviewAny", (1460, 750), (360, 200), "What is erased", source=concepts[1])


def _preset(g: Graph, kind: str, name: str) -> str:
    """The list that the UI writes when a preset is chosen."""
    if kind not in g.info:
        raise NotHere(f"{g.name}: not written, for this ComfyUI has no {kind}")
    return g.info[kind]["input"]["required"]["preset"][1]["lists"][name]


def erase_from_sdxl(g: Graph) -> None:
    """SDXL: both text encoders and the pooled vector."""
    start = _start(
        g,
        "## Erase from SDXL\n\n"
        "As for SD1.5, at SDXL's size. The erasure has a matrix for the sequence of both text encoders and one for "
        "the pooled vector, through which a concept would otherwise leak back in.\n\n"
        "1. Choose an SDXL checkpoint. Every finetune with SDXL's own text encoders takes the same delta.\n"
        "2. Change *concepts* and *keep* to yours, and **Run**.\n\n"
        "We have measured how well concepts go on a small model of our own only, not on SDXL: look at what you get. "
        "Raise *preserve* (advanced) if other things change, lower it if the concept stays.",
        checkpoint=SDXL,
        text="a cowboy drawing a gun in front of a saloon, evening light, photograph",
        size=1024,
        batch=1,
    )
    guns = "\n".join(f"{word} -> an umbrella" for word in ("a gun", "a pistol", "a revolver", "a rifle", "a firearm"))
    keep = "an umbrella\na hair dryer\na camera\na walking stick\na drill\na cowboy\na soldier\na police officer"
    erased = _erase(g, start, concepts=guns, keep=keep, tune_resolution=1024)
    _compare(g, start, erased, SAMPLING | {"steps": 25, "cfg": 6.5})
    g.add("TRCESaveDelta", (1460, 480), (360, 110), delta=erased[1], filename_prefix="sdxl/no-guns")
    g.add("PreviewAny", (1460, 650), (360, 300), "What was moved and kept", source=erased[2])


def measure_an_erasure(g: Graph) -> None:
    """A contact sheet and figures: what went, what stayed."""
    g.note(
        "## What went, what stayed\n\n"
        "Press **Run**. **Erasure Report** draws every prompt with the model before and after, from the same seeds, "
        "and puts the pairs on one sheet.\n\n"
        "*concept prompts* should change: name the concept, use a synonym, describe it. *kept prompts* should not.\n\n"
        "With your own model set *width* and *height* to its size, and give it some minutes.",
        (0, 0),
        (320, 330),
    )
    loaded = g.add("CheckpointLoaderSimple", (0, 380), (320, 100), ckpt_name=DEMO)
    erased = g.add(
        "TRCEErase",
        (360, 0),
        (360, 950),
        model=loaded[0],
        clip=loaded[1],
        concepts=STAR,
        keep=OTHERS,
        tune_resolution=64,
    )
    report = g.add(
        "TRCEReport",
        (760, 0),
        (400, 660),
        before=loaded[0],
        after=erased[0],
        clip=loaded[1],
        vae=loaded[2],
        concept_prompts=f"{PROMPT}\nlook at a striped blue pentagram on a white wall\n"
        "a sign showing a solid red sheriff badge that guides the sailors on a white background",
        kept_prompts="a sticker of a solid red heart on a gray wall\na solid green square on a white background\n"
        "a striped purple crescent on a black background",
        seed=7,
        cfg=4.0,
        width=64,
        height=64,
    )
    g.add("SaveImage", (1200, 0), (560, 660), images=report[0], filename_prefix="trce/report")
    g.add("PreviewAny", (760, 720), (1000, 230), "The report", source=report[1])


def red_team_probe(g: Graph) -> None:
    """Attack your own erasure before others do."""
    start = _start(
        g,
        "## Attack your own erasure\n\n"
        "Press **Run** and see what comes back from the *erased* model:\n\n"
        "* **Concept Direction** pushes the embedding of a harmless prompt towards the concept. Seconds.\n"
        "* **Concept Inversion** has seen pictures of the concept and learns a new word for it, by the erased model's "
        "own gradients. Minutes; few erasures withstand it.\n\n"
        "Nothing comes back: good. Something does: add synonyms, lower *preserve*, or turn tuning on (*mode*).",
    )
    erased = _erase(g, start)
    sampled = g.add(
        "KSampler",
        (760, 0),
        (300, 270),
        "The unedited model draws it",
        model=start.model,
        **SAMPLING,
        positive=start.positive,
        negative=start.negative,
        latent_image=start.latent,
    )
    shared = {"model": erased[0], "clip": start.clip, "pictures": sampled[0], "unedited_model": start.model}
    harmless = "a sticker of a solid yellow circle on a black background"
    direction = g.add("TRCEProbeRingABell", (1100, 0), (340, 400), **shared, concepts=STAR, prompt=harmless)
    word = g.add("TRCEProbeConceptInversion", (1480, 0), (340, 400), **shared, prompt=PROMPT, steps=100)
    for left, top, probe, title in (
        (1100, 320, direction, "With the direction"),
        (1480, 640, word, "With the new word"),
    ):
        decoded = _draw(g, start, (left, 450), title, erased[0], probe[0])
        g.add("PreviewImage", (left, 860), (340, 300), title, images=decoded[0])
        g.add("PreviewAny", (760, top), (300, 270), f"{title}: report", source=probe[1])


TEMPLATES = {
    "erase-a-concept": erase_a_concept,
    "compare-before-after": compare_before_after,
    "apply-a-saved-delta": apply_a_saved_delta,
    "apply-with-lora-and-controlnet": apply_with_lora_and_controlnet,
    "erase-from-a-preset": erase_from_a_preset,
    "erase-from-sdxl": erase_from_sdxl,
    "measure-an-erasure": measure_an_erasure,
    "red-team-probe": red_team_probe,
}
NEED_OTHER_MODELS = {"erase-from-sdxl": "SDXL", "erase-from-a-preset": "SD1.5"}  # cannot be drawn here
SLATE, CARD, PICTURE = (51, 60, 72), (480, 240), (200, 200)


def without_erasing(api: dict[str, Any]) -> dict[str, Any]:
    """The same workflow with every erasure at strength 0."""
    strength = {"strength": 0.0}
    erase = ("TRCEErase", "TRCEApplyDelta")
    return {
        node_id: node | {"inputs": node["inputs"] | strength} if node["class_type"] in erase else node
        for node_id, node in api.items()
    }


def first_picture(entry: dict[str, Any], folder: Path) -> Image.Image:
    """The last node's first picture of a run."""
    shown = [items for node in entry["outputs"].values() for items in node.values() if isinstance(items, list)]
    item = next(items[0] for items in reversed(shown) if items and isinstance(items[0], dict))
    return Image.open(folder / item["type"] / item["subfolder"] / item["filename"]).convert("RGB")


def thumbnail(before: Image.Image, after: Image.Image, text: str = "") -> Image.Image:
    """Before, an arrow, after; with a word below it when there is one."""
    card = Image.new("RGB", CARD, SLATE)
    pen = ImageDraw.Draw(card)
    for left, side in ((15, before), (CARD[0] - PICTURE[0] - 15, after)):
        card.paste(side.resize(PICTURE, Image.Resampling.LANCZOS), (left, 20))
    pen.line([(222, 120), (244, 120)], "white", 5)
    pen.polygon([(242, 108), (258, 120), (242, 132)], "white")
    pen.text((CARD[0] // 2, 90), text, "white", ImageFont.load_default(16), anchor="mm")
    return card


def draw(host: Any, name: str, api: dict[str, Any]) -> Image.Image:
    if name in NEED_OTHER_MODELS:
        return thumbnail(picture(0.0, 200), picture(1.0, 200), NEED_OTHER_MODELS[name])
    after = first_picture(host.queue(api), host.folder)
    for node in api.values():
        if node["class_type"] == "LoadImage":  # what it was drawn after says more than what it was without erasing
            return thumbnail(Image.open(EXAMPLES / "input" / node["inputs"]["image"]).convert("RGB"), after)
    return thumbnail(first_picture(host.queue(without_erasing(api)), host.folder), after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TEMPLATES), metavar="NAME")
    parser.add_argument("--draw", action="store_true", help="run them for their thumbnails")
    options = parser.parse_args()
    load_tools()
    from tools.host import Host
    from tools.pins import COMFYUI_VERSION

    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    with Host() as host:
        info = host.request("/object_info")
        for name in options.names:
            graph = Graph(name, info, {"pack": version, "core": COMFYUI_VERSION})
            try:
                TEMPLATES[name](graph)
            except NotHere as error:
                print(error)
                continue
            graph.write()
            if options.draw:
                draw(host, name, graph.api).save(WORKFLOWS / f"{name}.jpg", quality=85)
            print(name)


if __name__ == "__main__":
    main()
