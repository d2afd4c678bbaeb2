"""Attacks on an erased model: does the concept come back when it is asked for by other means than its name?

Each has one module. They take the model as the Denoiser that tuning takes (trajectories.py), the text encoder as a
SoftEncoder (soft_prompts.py) and pictures of the concept as latents, and change neither. Randomness is a local
generator's, the same inputs give the same attack on one machine, and `progress` may raise to cancel before every step.
"""

from . import evidence, inversion, latent_inversion, ring_a_bell, soft_prompts, token_prefix

__all__ = ["evidence", "inversion", "latent_inversion", "ring_a_bell", "soft_prompts", "token_prefix"]
