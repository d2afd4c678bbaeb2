"""Writes the workflow templates: `python demo/build_templates.py [NAME ...] [--draw]`.

A template is described once, below, and written twice: as a graph for the UI (workflows/NAME.json) and in API format
(workflows/api/NAME.json). Which inputs a node has, and in which order, is asked of a real ComfyUI, so that running
this again after a node has gained an input brings the templates up to date. With --draw those that work on the demo
model are run, and their pictures become the thumbnails (workflows/NAME.jpg).
"""

from __future__ import annotations

import argparse
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from run_demo import load_dev

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / "workflows"
PACK = "comfyui-trce"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
GREEN, SAND = {"color": "#232", "bgcolor": "#353"}, {"color": "#432", "bgcolor": "#000"}

DEMO = "trce_demo_sd15.safetensors"
SDXL = "sd_xl_base_1.0.safetensors"
MODELS = {  # where a file that a template names can be had: folder, address
    SDXL: (
        "checkpoints",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    ),
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "checkpoints",
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
        "v1-5-pruned-emaonly-fp16.safetensors",
    ),
    "control_v11p_sd15_scribble_fp16.safetensors": (
        "controlnet",
        "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
        "control_v11p_sd15_scribble_fp16.safetensors",
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


class Graph:
    """A workflow, written down node by node. Inputs that are not given have their defaults."""

    def __init__(self, name: str, info: dict[str, Any], versions: dict[str, str]) -> None:
        self.name, self.info, self.versions = name, info, versions
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.api: dict[str, Any] = {}

    def add(self, kind: str, at: tuple[int, int], size: tuple[int, int], title: str = "", **given: Any) -> Node:
        """A node of type `kind` at a place of the canvas; `given` are connections (node[slot]) and widget values."""
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
                if options.get("control_after_generate"):
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
            | {"mode": 0, "inputs": inputs, "outputs": outputs, "properties": properties, "widgets_values": values}
            | ({"title": title} if title else {})
            | (GREEN if pack else {})
        )
        self.api[str(node_id)] = {
            "class_type": kind,
            "inputs": sent,
            "_meta": {"title": title or known["display_name"]},
        }
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


def erase_a_concept(g: Graph) -> None:
    """Erase, look, save, share."""
    loaded = g.add("CheckpointLoaderSimple", (0, 0), (320, 100), ckpt_name=DEMO)
    erased = g.add("TRCEErase", (380, 0), (380, 400), model=loaded[0], clip=loaded[1], concepts=STAR, keep=OTHERS)
    prompt = g.add("CLIPTextEncode", (380, 460), (380, 110), "Prompt", text=PROMPT, clip=loaded[1])
    negative = g.add("CLIPTextEncode", (380, 620), (380, 90), "Negative prompt", text="", clip=loaded[1])
    latent = g.add("EmptyLatentImage", (380, 760), (380, 110), width=64, height=64, batch_size=4)
    sampled = _sample(g, (820, 0), "KSampler with the erased model", erased[0], prompt, negative, latent)
    decoded = g.add("VAEDecode", (1170, 0), (200, 50), samples=sampled[0], vae=loaded[2])
    g.add("SaveImage", (1170, 100), (360, 360), images=decoded[0], filename_prefix="trce/erased")
    g.add("TRCESaveDelta", (820, 330), (300, 80), delta=erased[1], filename_prefix="star")
    g.add("PreviewAny", (820, 510), (710, 360), "What was moved and kept", source=erased[2])
    g.note(
        "## Erase, save, share\n\n"
        "Press **Run** (top right). As it stands this teaches the little demo model to draw circles where you ask for "
        "stars, in a minute or two on a CPU.\n\n"
        "With your own model:\n\n"
        "1. Choose the checkpoint above, and the size that it likes in **Empty Latent Image** (demo model 64, SD1.5 "
        "512, SDXL 1024).\n"
        "2. In **TRCE Erase** write what should go, one a line: `concept -> what to draw instead`. Synonyms get lines "
        "of their own.\n"
        "3. Write what is close to it and must stay into **keep**.\n"
        "4. **Run**. The picture comes from the erased model.\n\n"
        "**Save Erased Delta** has written a small file into `models/erased_deltas`. That file is the erasure: give it "
        "away, and open the template *apply-a-saved-delta* to use it.",
        (0, 160),
        (320, 560),
    )


def compare_before_after(g: Graph) -> None:
    """Erase in one go, and see both sides at a glance."""
    loaded = g.add("CheckpointLoaderSimple", (0, 0), (320, 100), ckpt_name=DEMO)
    erased = g.add("TRCEErase", (380, 0), (380, 400), model=loaded[0], clip=loaded[1], concepts=STAR, keep=OTHERS)
    prompt = g.add("CLIPTextEncode", (380, 460), (380, 110), "Prompt", text=PROMPT, clip=loaded[1])
    negative = g.add("CLIPTextEncode", (380, 620), (380, 90), "Negative prompt", text="", clip=loaded[1])
    latent = g.add("EmptyLatentImage", (380, 760), (380, 110), width=64, height=64, batch_size=4)
    before = _sample(g, (820, 0), "Before", loaded[0], prompt, negative, latent)
    decoded = g.add("VAEDecode", (1170, 0), (200, 50), samples=before[0], vae=loaded[2])
    after = _sample(g, (820, 330), "After", erased[0], prompt, negative, latent)
    decoded_after = g.add("VAEDecode", (1170, 330), (200, 50), samples=after[0], vae=loaded[2])
    g.add("ImageCompare", (1430, 0), (420, 480), image_a=decoded[0], image_b=decoded_after[0])
    g.add("PreviewAny", (1430, 540), (420, 330), "What was moved and kept", source=erased[2])
    g.note(
        "## Before and after\n\n"
        "Press **Run**, then move the mouse over the picture on the right: one side is the model as it was, the other "
        "the erased one.\n\n"
        "Both samplers have the same fixed seed and the same prompt: whatever differs is the erasure.\n\n"
        "Then change the prompt and run again:\n\n"
        "* something that only describes it: *a sheriff badge that guides the sailors*\n"
        "* something else, which should stay as it was: *a sticker of a solid red heart on a gray wall*",
        (0, 160),
        (320, 420),
    )


def apply_a_saved_delta(g: Graph) -> None:
    """Somebody else's erasure on your model."""
    loaded = g.add("CheckpointLoaderSimple", (0, 0), (320, 100), ckpt_name=DEMO)
    delta = g.add("TRCELoadDelta", (0, 160), (320, 80), delta_name="example_star.safetensors")
    applied = g.add("TRCEApplyDelta", (380, 0), (380, 160), model=loaded[0], delta=delta[0], clip=loaded[1])
    prompt = g.add("CLIPTextEncode", (380, 220), (380, 110), "Prompt", text=PROMPT, clip=loaded[1])
    negative = g.add("CLIPTextEncode", (380, 380), (380, 90), "Negative prompt", text="", clip=loaded[1])
    latent = g.add("EmptyLatentImage", (380, 520), (380, 110), width=64, height=64, batch_size=4)
    sampled = _sample(g, (820, 0), "KSampler with the erased model", applied[0], prompt, negative, latent)
    decoded = g.add("VAEDecode", (1170, 0), (200, 50), samples=sampled[0], vae=loaded[2])
    g.add("SaveImage", (1170, 100), (360, 360), images=decoded[0], filename_prefix="trce/applied")
    g.note(
        "## Apply a saved delta\n\n"
        "Put the `.safetensors` file that you were given, or made with *erase-a-concept*, into "
        "`models/erased_deltas`, press **R**, and choose it in **Load Erased Delta**. Beside `python dev.py serve` an "
        "example is in place already.\n\n"
        "It works on every checkpoint with the same text encoder. With **clip** connected, a delta made for another "
        "encoder is refused.\n\n"
        "**strength** fades the erasure: 0 is the model as it was. Several Apply nodes in a row add up.",
        (0, 300),
        (320, 380),
    )


def _sample(g: Graph, at: tuple[int, int], title: str, model: tuple, prompt: Node, negative: Node, latent: Node):
    return g.add(
        "KSampler",
        at,
        (300, 270),
        title,
        model=model,
        seed=7,
        steps=20,
        cfg=4.0,
        sampler_name="euler",
        scheduler="normal",
        positive=prompt[0],
        negative=negative[0],
        latent_image=latent[0],
    )


TEMPLATES = {
    "erase-a-concept": erase_a_concept,
    "compare-before-after": compare_before_after,
    "apply-a-saved-delta": apply_a_saved_delta,
}
DRAWN = ("erase-a-concept", "compare-before-after", "apply-a-saved-delta")  # on the demo model, for the thumbnail


def thumbnail(entry: dict[str, Any], folder: Path) -> Image.Image:
    """The pictures that a workflow showed, four at most, side by side or before | after."""
    shown = [items for node in entry["outputs"].values() for items in node.values() if isinstance(items, list)]
    files = [item for items in shown for item in items if isinstance(item, dict) and "filename" in item]
    pictures = [Image.open(folder / item["type"] / item["subfolder"] / item["filename"]) for item in files]
    pictures = pictures[::4] if len(pictures) == 8 else pictures[:4]
    sheet = Image.new("RGB", (256 * min(len(pictures), 2), 256 * (1 + (len(pictures) > 2))), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS), (i % 2 * 256, i // 2 * 256))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TEMPLATES), metavar="NAME")
    parser.add_argument("--draw", action="store_true", help="run them for their thumbnails")
    options = parser.parse_args()
    dev = load_dev()
    version = dev.re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), dev.re.M)[1]
    with dev.Host() as host:
        info = host.object_info()
        for name in options.names:
            graph = Graph(name, info, {"pack": version, "core": dev.COMFYUI_VERSION})
            TEMPLATES[name](graph)
            graph.write()
            if options.draw and name in DRAWN:
                thumbnail(host.queue(graph.api), host.folder).save(WORKFLOWS / f"{name}.jpg", quality=80)
            print(name)


if __name__ == "__main__":
    main()
