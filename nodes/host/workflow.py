"""What the workflow that a node runs in says, from ComfyUI's hidden input PROMPT: the graph in API format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_TEXT = ("model", "clip", "vae", "control_net")  # inputs that lead away from a prompt
NEGATIVE = "negative"


def negative_texts(graph: Mapping[str, Any] | None) -> list[str]:
    """All texts that go into an input called `negative`, through any number of nodes."""
    nodes = {str(name): node.get("inputs", {}) for name, node in (graph or {}).items()}
    ahead = [inputs[NEGATIVE] for inputs in nodes.values() if NEGATIVE in inputs]
    found, seen = [], set()
    while ahead:
        value = ahead.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list) and len(value) == 2 and (name := str(value[0])) in nodes.keys() - seen:
            seen.add(name)
            inputs = nodes[name]  # a node with both prompts, such as Apply ControlNet, gives one for each
            ahead += [v for k, v in inputs.items() if k not in NOT_TEXT] if NEGATIVE not in inputs else []
    return found
