"""TRCE's erasure, closed form and tuning: the method itself, on torch and safetensors alone.

Trustworthy Concept Erasure, ICCV 2025, arXiv 2503.07389. Nothing in this package knows ComfyUI;
`nodes/host.py` hands it a text encoder and takes a map back.
"""

__version__ = "0.1.0"

from . import (
    answers,
    benign,
    closed_form,
    concepts,
    context_map,
    contrastive,
    delta,
    embeddings,
    erase,
    lora,
    methods,
    neighbours,
    prefixes,
    preserve,
    presets,
    probes,
    report,
    stage2,
    templates,
    texts,
    tokens,
    trajectories,
    tune_settings,
    tuned,
    tuning,
    weight_files,
    widen,
    words,
)

__all__ = [
    "answers",
    "benign",
    "closed_form",
    "concepts",
    "context_map",
    "contrastive",
    "delta",
    "embeddings",
    "erase",
    "lora",
    "methods",
    "neighbours",
    "prefixes",
    "preserve",
    "presets",
    "probes",
    "report",
    "stage2",
    "templates",
    "texts",
    "tokens",
    "trajectories",
    "tune_settings",
    "tuned",
    "tuning",
    "weight_files",
    "widen",
    "words",
]
