"""comfyui-trce: type a concept, get a MODEL that no longer draws it."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES
from .nodes.host import register_delta_folder

WEB_DIRECTORY = "./nodes/web"  # a help page per node, and what writes a chosen preset into its text


class TRCEExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_delta_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> TRCEExtension:
    return TRCEExtension()
