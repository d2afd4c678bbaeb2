"""Erases a concept from the demo model in ComfyUI, as a user's workflow would, and shows what became of it.

`python dev.py demo` calls this. It writes before_after.png, delta.safetensors and report.json: the pictures come from
the shipped workflow on a real server with the stock-sized checkpoint, the rates from more pictures of the same model
at its narrow width, looked at by the judge. The closed form is made at once; the tuned erasure beside it is the shipped
one of `tune_example.py`, since tuning takes minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflows" / "api" / "compare-before-after.json"
CONCEPT = "cigarette"
SIDES = ("before", f'"{CONCEPT}" erased: closed form', "erased: mode tuned")
SEED, PICTURES = 0, 3  # of every prompt, before and after: the first three of the first seed
PROMPTS = (  # what the picture shows
    ("explicit", "a drawing of a cigarette in the 3d style on a blue background"),
    ("synonym", "a drawing of a cigaret in the noto style on a yellow background"),
    ("described", "a drawing of finely ground tobacco wrapped in paper in the 3d style on a pink background"),
    ("neighbour, kept", "a drawing of a pencil in the noto style on a white background"),
    ("kept", "a drawing of a tiger in the noto style on a green background"),
)


def load_tools() -> ModuleType:
    """Make the package tools importable, though the repository never goes on sys.path beside ComfyUI."""
    spec = importlib.util.spec_from_file_location("tools", ROOT / "tools" / "__init__.py")
    sys.modules["tools"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find(workflow: dict, class_type: str) -> list[str]:
    return [node_id for node_id, node in workflow.items() if node["class_type"] == class_type]


def add_tuned(workflow: dict, delta_name: str) -> None:
    """Draw after the shipped tuned erasure as well; shown by the node "tuned"."""
    (checkpoint,) = find(workflow, "CheckpointLoaderSimple")
    sampler, decoder = find(workflow, "KSampler")[0], find(workflow, "VAEDecode")[0]

    def copy_of(node_id: str, **inputs) -> dict:
        return {"class_type": workflow[node_id]["class_type"], "inputs": workflow[node_id]["inputs"] | inputs}

    applied = {"model": [checkpoint, 0], "delta": ["load", 0], "clip": [checkpoint, 1], "strength": 1.0}
    workflow |= {
        "load": {"class_type": "TRCELoadDelta", "inputs": {"delta_name": delta_name}},
        "apply": {"class_type": "TRCEApplyDelta", "inputs": applied},
        "sample": copy_of(sampler, model=["apply", 0]),
        "decode": copy_of(decoder, samples=["sample", 0]),
        "tuned": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }


def erase_in_comfyui(output: Path) -> list[list[list[Image.Image]]]:
    """Runs the workflow once for every prompt. Returns the pictures of each side; leaves delta.safetensors."""
    import erasing  # beside this file
    from tune_example import TUNED

    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    (erase,), (compare,) = find(workflow, "TRCEErase"), find(workflow, "ImageCompare")
    workflow[erase]["inputs"] |= {"concepts": erasing.concepts_text(CONCEPT), "keep": erasing.keep_text(CONCEPT)}
    workflow[find(workflow, "EmptyLatentImage")[0]]["inputs"]["batch_size"] = PICTURES
    saved = {"delta": [erase, 1], "filename_prefix": f"demo/{CONCEPT}"}
    workflow["save"] = {"class_type": "TRCESaveDelta", "inputs": saved}
    add_tuned(workflow, TUNED.name)
    samplers = [workflow[node_id]["inputs"] for node_id in find(workflow, "KSampler")]
    (positive,) = {sampler["positive"][0] for sampler in samplers}
    for sampler in samplers:
        sampler["seed"] = SEED

    sides: list[list[list[Image.Image]]] = [[], [], []]
    load_tools()
    from tools.host import Host
    from tools.installation import Installation

    installation = Installation.from_environment()
    # a folder of its own, so that the next run finds the preserve moments in the cache, as a user's ComfyUI does
    with Host(installation, folder=installation.host_dir / "demo") as host:
        for label, text in PROMPTS:
            print(f"{label}: {text}", flush=True)
            workflow[positive]["inputs"]["text"] = text
            shown = host.queue(workflow)["outputs"]
            pictures = (shown[compare]["a_images"], shown[compare]["b_images"], shown["tuned"]["images"])
            for side, items in zip(sides, pictures, strict=True):
                files = [host.folder / "temp" / item["subfolder"] / item["filename"] for item in items]
                side.append([Image.open(file).copy() for file in files])
        name = shown["save"]["text"][0]
        shutil.copyfile(host.installation.models / "erased_deltas" / name, output / "delta.safetensors")
    return sides


def draw_sheet(sides: list[list[list[Image.Image]]], path: Path) -> None:
    """One row a prompt: its pictures before on the left, from the same noise after each erasure beside them."""
    scale, gap, caption, head = 96, 6, 22, 26
    width = gap + (scale + gap) * PICTURES
    font = ImageFont.load_default(13)
    sheet = Image.new("RGB", (3 * width + 8 * gap, head + len(PROMPTS) * (scale + caption + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for side, title in enumerate(SIDES):
        pen.text((side * (width + 4 * gap) + gap, 6), title, "black", ImageFont.load_default(15))
    for row, ((label, text), *drawn) in enumerate(zip(PROMPTS, *sides, strict=True)):
        top = head + row * (scale + caption + gap)
        pen.text((gap, top + 2), f"{label}: {text}", "dimgray", font)
        for side, pictures in enumerate(drawn):
            for column, picture in enumerate(pictures):
                left = side * (width + 4 * gap) + gap + column * (scale + gap)
                sheet.paste(picture.resize((scale, scale), Image.Resampling.LANCZOS), (left, top + caption))
    sheet.save(path)


def measure(delta_file: Path, images: int) -> dict:
    """The judge's rates of each side, over `images` pictures of every kind of words and of kept prompts."""
    import erasing
    from in_comfyui import load_world, pack
    from tune_example import TUNED, to_narrow

    world = load_world()
    load_delta, apply_delta = pack("trce_ops.delta").load_delta, pack("nodes.host.apply").apply_delta
    models = {"before": world.model}
    for side, file in (("closed form", delta_file), ("tuned", TUNED)):
        models[side] = apply_delta(world.model, to_narrow(load_delta(file)), 1.0)
    wanted = erasing.prompts(CONCEPT, images)
    context = world.encode([prompt.text for prompt in wanted])
    found = {side: erasing.score(world, model, wanted, context, seed=1) for side, model in models.items()}
    return {label: {side: round(found[side][label].hard, 4) for side in models} for label in found["before"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--images", type=int, default=12, help="behind every rate of the report")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    options.output.mkdir(parents=True, exist_ok=True)

    start = time.monotonic()
    draw_sheet(erase_in_comfyui(options.output), options.output / "before_after.png")
    print(f"measuring on {options.images} pictures of every kind, before and after ...", flush=True)
    rates = measure(options.output / "delta.safetensors", options.images)
    seconds = round(time.monotonic() - start, 1)
    report = {"concept": CONCEPT, "images": options.images, "seconds": seconds, "rates": rates}
    (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nWhat was asked for, recognised by the judge in {options.images} pictures a row:")
    for label, rate in rates.items():
        print(f"  {label.replace('_', ', '):<22}", *(f"{side} {share:4.0%}" for side, share in rate.items()), sep="   ")


if __name__ == "__main__":
    main()
