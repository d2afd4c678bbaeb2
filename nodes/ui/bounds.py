"""Enforces widget bounds on linked inputs, which ComfyUI does not check, and rejects NaN, which passes its check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps

from comfy_api.latest import io

from ..host.errors import HostError

LARGE = 1e300  # larger whole numbers may have too many digits to be written out


def within_bounds(execute: Callable) -> Callable:
    """Decorator for execute: raises HostError, naming the widget, before anything else runs."""
    signature = inspect.signature(execute)

    @wraps(execute)
    def checked(cls, *args, **inputs):
        # What a workflow does not name of a DynamicCombo's choice arrives as None; the node's default counts then.
        inputs = {
            name: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
            for name, value in inputs.items()
        }
        given = {**signature.bind_partial(cls, *args, **inputs).arguments, **inputs}
        for widget in cls.define_schema().inputs:
            if widget.id in given:
                _check(widget, widget.id, given[widget.id])
        return execute(cls, *args, **inputs)

    return checked


def _check(widget: io.Input, name: str, value) -> None:
    if isinstance(widget, (io.Int.Input, io.Float.Input)):
        if not widget.min <= value <= widget.max:
            shown = f"{value:g}" if abs(value) < LARGE or value != value else "too large"
            raise HostError(f"'{name}' is {shown}; it must be between {widget.min:g} and {widget.max:g}.")
    elif isinstance(widget, io.DynamicCombo.Input):
        chosen = next((option for option in widget.options if option.key == value.get(widget.id)), None)
        if chosen is None:
            keys = ", ".join(option.key for option in widget.options)
            raise HostError(f"'{name}' is '{value.get(widget.id)}'; choose one of {keys}.")
        for inner in chosen.inputs:
            if inner.id in value:
                _check(inner, f"{name}.{inner.id}", value[inner.id])
    elif isinstance(widget, io.Combo.Input) and widget.default is not None and value not in widget.options:
        # a Combo without a default names a file, and opening it checks the name
        raise HostError(f"'{name}' is '{value}'; choose one of {', '.join(widget.options)}.")
