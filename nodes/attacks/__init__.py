"""Attacks on an erased MODEL: does the concept come back when it is asked for in other ways? One module for each."""

from .concept_direction import TRCEProbeRingABell
from .concept_inversion import TRCEProbeConceptInversion
from .latent_inversion import TRCEProbeLatentInversion
from .relearning import TRCEProbeRelearning
from .token_prefix import TRCEProbeTokenPrefix

PROBES = [
    TRCEProbeConceptInversion,
    TRCEProbeRingABell,
    TRCEProbeTokenPrefix,
    TRCEProbeLatentInversion,
    TRCEProbeRelearning,
]
