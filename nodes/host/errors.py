"""Errors about what is connected."""

from __future__ import annotations


class HostError(ValueError):
    """A MODEL, CLIP or delta that does not fit the job, or the others."""
