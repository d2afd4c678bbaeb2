"""Attacks on an erased model, which test whether the concept comes back by other means than its name."""
