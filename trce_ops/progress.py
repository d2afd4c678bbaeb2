"""Callbacks by which long work reports its progress; a callback may raise to cancel the work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)
StepProgress = Callable[[str, int, int], None]  # (name of the step, done, total)
