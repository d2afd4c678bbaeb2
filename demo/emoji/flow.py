"""The flow world's transformer: Stable Diffusion 3's, as ComfyUI builds it, of four blocks; and a sampler for it.

ComfyUI reads width (64 x blocks), patch size and channels from the file, so that nothing is padded but the text: of the
4,096 channels of a token and the 2,048 of the pooled vector only those of the narrow CLIP-L are in use.
"""

from __future__ import annotations

import sys

import torch
from common import RUNS
from text_encoder import WIDTH as CONTEXT
from text_encoder import TextEncoder, comfyui_path, first_end, pad, token_rows
from torch import Tensor, nn

DEPTH = 4  # blocks, and heads of 64 channels
CHANNELS = 16
SHIFT = 3.0  # of the noise levels, as ComfyUI samples SD3
WEIGHTS_FILE = RUNS / "flow.safetensors"
Text = tuple[Tensor, Tensor]  # embeddings (n, 77, CONTEXT) before the final norm, pooled (n, CONTEXT) after it


def transformer() -> nn.Module:
    """ComfyUI's MMDiT at this size; each block starts as the identity (Peebles and Xie 2023, adaLN-zero)."""
    root = str(comfyui_path().resolve())
    if root not in sys.path:
        sys.path.insert(0, root)
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    model = OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=2,
        in_channels=CHANNELS,
        depth=DEPTH,
        adm_in_channels=CONTEXT,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": CONTEXT, "out_features": 64 * DEPTH},
        },
        qk_norm="rms",
        dtype=torch.float32,
        operations=nn,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                parameter.zero_()
            elif "attn.ln_" in name:
                parameter.fill_(1)
    return model


@torch.no_grad()
def read(encoder: TextEncoder, texts: list[str], batch: int = 256) -> Text:
    """What Stable Diffusion 3 reads of CLIP-L, bfloat16, on the encoder's device."""
    rows, device = token_rows(texts), encoder.special.device
    hidden, pooled = [], []
    for start in range(0, len(rows), batch):
        ids = pad(rows[start : start + batch]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            states = encoder.hidden(ids)
            normed = encoder.final_layer_norm(states)
        hidden.append(states.bfloat16())
        pooled.append(normed[torch.arange(len(ids)), first_end(ids)].bfloat16())
    return torch.cat(hidden), torch.cat(pooled)


def shifted(u: Tensor) -> Tensor:
    """Noise levels in [0, 1] of places u in [0, 1] (Esser et al. 2024, equation 23)."""
    return SHIFT * u / (1 + (SHIFT - 1) * u)


@torch.no_grad()
def sample(model: nn.Module, text: Text, empty: Text, seed: int = 0, steps: int = 20, guidance: float = 4.0) -> Tensor:
    """Latents (n, 16, 8, 8): Euler's method with classifier-free guidance. Noise depends on the seed and the place."""
    device, count = text[0].device, len(text[0])
    generators = [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(count)]
    x = torch.stack([torch.randn(CHANNELS, 8, 8, generator=generator) for generator in generators]).to(device)
    context, pooled = (
        torch.cat([part, nothing.expand_as(part)]).float() for part, nothing in zip(text, empty, strict=True)
    )
    levels = shifted(torch.linspace(1, 0, steps + 1, device=device))
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model(torch.cat([x, x]), now.expand(2 * count) * 1000, context, pooled).float()
        with_prompt, without = velocity.chunk(2)
        x = x + (then - now) * (without + guidance * (with_prompt - without))
    return x
