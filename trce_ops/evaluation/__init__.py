"""Figures of what an erasure changed."""
