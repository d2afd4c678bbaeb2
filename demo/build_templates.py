"""Writes the workflow templates and the blueprint: `python demo/build_templates.py [NAME ...] [--draw]`.

A template is described once, in templates.py, and written twice: as a graph for the UI (workflows/NAME.json) and in API
format (workflows/api/NAME.json). Run this again after a node has gained an input. With --draw the templates are run,
without erasing and with, and the first pictures become the thumbnails (workflows/NAME.jpg).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from graphs import Graph, NotHere
from parts import MODELS
from PIL import Image, ImageDraw, ImageFont
from run_demo import load_tools
from templates import BLUEPRINTS, TEMPLATES

ROOT = Path(__file__).parents[1]
WORKFLOWS, SUBGRAPHS = ROOT / "workflows", ROOT / "subgraphs"
EXAMPLES = ROOT / "demo" / "examples"

NEED_OTHER_MODELS = {  # whose thumbnails are drawn with the demo model
    "erase-from-sdxl": "SDXL",
    "erase-from-a-preset": "SD1.5",
    "erase-from-z-image": "Z-Image",
    "erase-from-flux": "Flux.1",
}
SLATE, CARD, PICTURE = (51, 60, 72), (480, 240), (200, 200)


def without_erasing(api: dict[str, Any]) -> dict[str, Any]:
    """The same workflow with every erasure at strength 0."""
    strength = {"strength": 0.0}
    erase = ("TRCEErase", "TRCEEraseFromPictures", "TRCEApplyDelta")
    return {
        node_id: node | {"inputs": node["inputs"] | strength} if node["class_type"] in erase else node
        for node_id, node in api.items()
    }


def first_picture(entry: dict[str, Any], folder: Path) -> Image.Image:
    """The last node's first picture of a run; of Compare Images what is shown after."""
    nodes = list(entry["outputs"].values())
    compared = [node["b_images"] for node in nodes if "b_images" in node]
    shown = compared or [items for node in nodes for items in node.values() if isinstance(items, list)]
    item = next(items[0] for items in reversed(shown) if items and isinstance(items[0], dict))
    return Image.open(folder / item["type"] / item["subfolder"] / item["filename"]).convert("RGB")


def thumbnail(before: Image.Image, after: Image.Image) -> Image.Image:
    """Before, an arrow, after."""
    card = Image.new("RGB", CARD, SLATE)
    pen = ImageDraw.Draw(card)
    for left, side in ((15, before), (CARD[0] - PICTURE[0] - 15, after)):
        card.paste(side.resize(PICTURE, Image.Resampling.LANCZOS), (left, 20))
    pen.line([(222, 120), (244, 120)], "white", 5)
    pen.polygon([(242, 108), (258, 120), (242, 132)], "white")
    return card


def draw(host: Any, name: str, api: dict[str, Any]) -> Image.Image:
    if name in NEED_OTHER_MODELS:
        card = Image.open(WORKFLOWS / "erase-a-concept.jpg")
        pen = ImageDraw.Draw(card)
        pen.text((CARD[0] // 2, 90), NEED_OTHER_MODELS[name], "white", ImageFont.load_default(16), anchor="mm")
        return card
    after = first_picture(host.queue(api), host.folder)
    for node in api.values():
        if node["class_type"] == "LoadImage":  # what it was drawn after says more than what it was without erasing
            return thumbnail(Image.open(EXAMPLES / "input" / node["inputs"]["image"]).convert("RGB"), after)
    return thumbnail(first_picture(host.queue(without_erasing(api)), host.folder), after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*TEMPLATES, *BLUEPRINTS], metavar="NAME")
    parser.add_argument("--draw", action="store_true", help="run them for their thumbnails")
    options = parser.parse_args()
    load_tools()
    from tools.host import Host
    from tools.pins import COMFYUI_VERSION

    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    with Host() as host:
        info = host.request("/object_info")
        for name in options.names:
            graph = Graph(name, info, {"pack": version, "core": COMFYUI_VERSION}, MODELS)
            try:
                if name in BLUEPRINTS:
                    describe, title, description = BLUEPRINTS[name]
                    describe(graph)
                    graph.write_blueprint(SUBGRAPHS, title, description)
                else:
                    TEMPLATES[name](graph)
                    graph.write(WORKFLOWS)
            except NotHere as error:
                print(error)
                continue
            if options.draw and name in TEMPLATES:
                draw(host, name, graph.api).save(WORKFLOWS / f"{name}.jpg", quality=85)
            print(name)


if __name__ == "__main__":
    main()
