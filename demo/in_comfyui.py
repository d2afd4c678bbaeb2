"""The demo models inside ComfyUI, for measuring thousands of pictures.

Sampling, conditioning and weight patches are ComfyUI's own, on a UNet a tenth of the size of the expanded
checkpoint's and equal to it (`tests/test_demo.py`), and on the flow model's transformer as it is. Needs ComfyUI on
sys.path: see `host_on_path`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "emoji"))

from autoencoder import Autoencoder  # noqa: E402
from checkpoint import expand, expand_flow, read_wide_embeddings  # noqa: E402
from compact import MODEL_FILE, load_compact, load_flow  # noqa: E402
from judge import Judge, Verdict, judge_all, load_judge  # noqa: E402
from text_encoder import LAYERS, comfyui_path  # noqa: E402
from unet import UNet  # noqa: E402

STEPS = 20
CFG = 4.0
BATCH = 40  # pictures sampled together


def host_on_path(*options: str) -> None:
    """Makes `import comfy` work, with ComfyUI's command-line options; `--cpu` is one of them where there is no GPU."""
    root = str(comfyui_path().resolve())
    if root not in sys.path:
        sys.path.insert(0, root)
    import comfy.options

    arguments, sys.argv = sys.argv, [sys.argv[0], *options, *([] if torch.cuda.is_available() else ["--cpu"])]
    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401  it reads sys.argv as it is imported
    import utils.extra_config  # noqa: F401  first, as in main.py: older ComfyUI has another `utils` further on

    sys.argv = arguments


class HostUNet(UNet):
    """The narrow UNet, made the way ComfyUI makes its own."""

    def __init__(self, *, device=None, operations=None, dtype=None, **unet_config):
        super().__init__()
        read_wide_embeddings(self)
        self.dtype = dtype or torch.float32

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, control=None, transformer_options=None, **_):
        return super().forward(x, timesteps, context)


@dataclass(frozen=True)
class Encoded:
    """What a model reads of n prompts."""

    sequence: Tensor  # (n, 77, d)
    pooled: Tensor | None = None  # (n, p)

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, rows: Any) -> Encoded:
        return Encoded(self.sequence[rows], None if self.pooled is None else self.pooled[rows])


@dataclass(frozen=True)
class World:
    """A demo model as ComfyUI's objects, and the judge."""

    model: Any  # comfy.model_patcher.ModelPatcher
    clip: Any  # comfy.sd.CLIP
    autoencoder: Autoencoder
    judge: Judge

    @property
    def latents(self) -> tuple[int, int, int]:
        return self.model.model.latent_format.latent_channels, 8, 8

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> Encoded:
        """The prompts as CLIP Text Encode makes them one at a time."""
        if self.model.model.adm_channels:  # reads a pooled vector as well
            both = [self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True) for text in prompts]
            return Encoded(*(torch.cat(parts).cpu() for parts in zip(*both, strict=True)))
        chunks = [chunk for prompt in prompts for chunk in self.clip.tokenize(prompt, disable_weights=True)["l"]]
        z = self.clip.encode_from_tokens({"l": chunks})  # ComfyUI strings the chunks together: (1, n * 77, 768)
        return Encoded(z.cpu().unflatten(1, (len(prompts), -1))[0])

    @torch.inference_mode()
    def draw(
        self,
        model,
        prompts: list[str] | Encoded,
        seed: int,
        *,
        negative: str = "",
        steps: int = STEPS,
        cfg: float = CFG,
    ) -> Tensor:
        """One picture (n, 3, 64, 64) in [0, 1] for each prompt. Noise depends on seed and place, not on the batch."""
        return self.decode(self.sample(model, prompts, seed, negative=negative, steps=steps, cfg=cfg))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, 64, 64) in [0, 1] of latents as the model sees them."""
        return torch.cat([self.autoencoder.decode(part).clamp(0, 1) for part in latents.split(BATCH)])

    @torch.inference_mode()
    def sample(
        self,
        model,
        prompts: list[str] | Encoded,
        seed: int,
        *,
        negative: str = "",
        noise: Tensor | None = None,
        steps: int = STEPS,
        cfg: float = CFG,
    ) -> Tensor:
        """What `draw` shows as latents (n, c, 8, 8), as the model sees them. noise: as KSampler takes it."""
        import comfy.sample

        asked = self.encode(prompts) if isinstance(prompts, list) else prompts
        if noise is None:
            noise = torch.randn(len(asked), *self.latents, generator=torch.Generator().manual_seed(seed))
        found = []
        for rows in torch.arange(len(asked)).split(BATCH):
            latents = comfy.sample.sample(
                model,
                noise[rows],
                steps,
                cfg,
                "euler",
                "normal",
                conditioning(asked[rows]),
                conditioning(self.encode([negative])),
                torch.zeros(len(rows), *self.latents),
                disable_pbar=True,
                seed=seed,
            )
            found.append(self.model.model.process_latent_in(latents.cpu()))
        return torch.cat(found)

    def look(self, pictures: Tensor) -> Verdict:
        return judge_all(self.judge, pictures)


def conditioning(asked: Encoded) -> list:
    """As CLIP Text Encode gives it."""
    return [[asked.sequence, {} if asked.pooled is None else {"pooled_output": asked.pooled}]]


def load_flow_world() -> World:
    """The flow model as ComfyUI's own CLIP and ModelPatcher."""
    host_on_path("--force-fp32", "--fp32-text-enc")
    import comfy.sd

    compact = load_flow()
    narrow_text = {"clip_l_model_config": {"num_hidden_layers": LAYERS + 1}}  # it reads the last layer but one
    model, clip, *_ = comfy.sd.load_state_dict_guess_config(expand_flow(compact), te_model_options=narrow_text)
    return World(model, clip, compact.autoencoder, load_judge())


def load_world(compact: Path = MODEL_FILE) -> World:
    """The compact model as ComfyUI's own CLIP and ModelPatcher."""
    host_on_path("--force-fp32", "--fp32-text-enc")  # as on a CPU
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd

    narrow = load_compact(compact)
    narrow_text = {"clip_l_model_config": {"num_hidden_layers": LAYERS}}
    full, clip, *_ = comfy.sd.load_state_dict_guess_config(expand(narrow), te_model_options=narrow_text)
    base = comfy.model_base.BaseModel(full.model.model_config, unet_model=HostUNet)
    base.diffusion_model.load_state_dict(read_wide_embeddings(narrow.unet).state_dict())
    base.eval()
    device = comfy.model_management.get_torch_device()
    model = comfy.model_patcher.ModelPatcher(base, device, comfy.model_management.unet_offload_device())
    return World(model, clip, narrow.autoencoder, load_judge())


def pack(path: str) -> ModuleType:
    """A module of the node pack, such as pack("trce_ops.delta"). Needs `host_on_path`.

    The pack is loaded as ComfyUI loads it: from its path, with the repository's root not on sys.path.
    """
    root = Path(__file__).parents[1]
    name = str(root).replace(".", "_x_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, root / "__init__.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.{path}")
