"""Progress bar, cancel button and text on the node."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import comfy.model_management
import comfy.utils
from server import PromptServer


def node_progress(node_id: str | None) -> Callable[[str, int, int], None]:
    """A callback for trce_ops: moves the bar, writes the step and the time left on the node, raises on cancel."""
    bar = comfy.utils.ProgressBar(1)
    clock = {}  # start time of each phase; one that begins again starts anew

    def progress(step: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        phase, now = step.partition(",")[0], perf_counter()
        if not done:
            clock[phase] = now
        left = (now - clock.setdefault(phase, now)) * (total - done) / done if done else 0
        show_text(node_id, f"{step}: {done} of {total}{_in_words(left)}")

    return progress


def _in_words(seconds: float) -> str:
    if seconds < 2:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f", {minutes} min {seconds} s left" if minutes else f", {seconds} s left"


def show_text(node_id: str | None, text: str) -> None:
    """Show text below the node's widgets, if there is a server to show it."""
    server = getattr(PromptServer, "instance", None)
    if server and node_id:
        server.send_progress_text(text, node_id)
