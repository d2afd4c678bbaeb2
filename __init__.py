"""comfyui-trce: type a concept, get a MODEL that no longer draws it."""

import re

import comfyui_version

OLDEST = (0, 16, 3)  # that the tests pass in

found = tuple(int(number) for number in re.findall(r"\d+", comfyui_version.__version__)[:3])
if found < OLDEST:
    raise ImportError(
        f"comfyui-trce needs ComfyUI {'.'.join(map(str, OLDEST))} or newer, and this is {comfyui_version.__version__}; "
        "update ComfyUI, then restart it."
    )

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES
from .nodes.host.folders import register_delta_folder

WEB_DIRECTORY = "./nodes/web"  # a help page for every node


class TRCEExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_delta_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> TRCEExtension:
    return TRCEExtension()
