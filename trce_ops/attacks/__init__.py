"""Attacks on an erased model, to find out whether the concept comes back when it is asked for in other ways."""
