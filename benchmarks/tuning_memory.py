"""What stage 2 takes at the size of SD1.5: `python dev.py bench tuning_memory [--steps N] [--resolution N]`

Random weights in the real shape, as ComfyUI's own classes; three runs in processes of their own: the model loaded, and
then tuned as in `quick` and as in `paper`. Prints the peak of the process's memory (of the GPU's, where there is one)
above the loaded model, in units of one fp16 model, and the UNet evaluations that the whole of each mode makes, which
the plan of a tuning says without making any of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import demo_world
import torch

UNET = {  # SD1.5
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
WIDTH, TOKENS = 768, 77
OFFICIAL_DATA = 210_000  # UNet evaluations of the official scripts for the same 300 steps
