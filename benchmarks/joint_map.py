"""One map for both kinds of rows that SD3 reads through one matrix, against a map for each kind.

    python benchmarks/joint_map.py                             # random embeddings
    python benchmarks/joint_map.py --t5 FOLDER --clip FILE     # a sentence encoder, and the CLIP of an SD1.x checkpoint

`context_embedder` reads T5's rows (d wide) and CLIP's rows, which are zero beyond their width d/2, so that a map T on
its weight is the same for both. The joint map minimises the sum of both objectives, each kind at a mean square of 1 a
dimension. A LoRA, a merge or a checkpoint can hold it. Figures: what is left of the way to the safe target (0: there,
1: not moved) on pairs that the map was solved on and on others, and how far ordinary text not solved on moves.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("trce_ops", ROOT / "trce_ops" / "__init__.py")
sys.modules["trce_ops"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["trce_ops"])

from trce_ops.closed_form.solve import solve_context_map  # noqa: E402
from trce_ops.text.captions import BENIGN_CAPTIONS  # noqa: E402
from trce_ops.text.prompts import TEMPLATES, fill  # noqa: E402

PAIRS = {"a cigarette": "a lollipop", "a knife": "a spoon", "a skull": "a pumpkin", "a bomb": "a balloon"}
PRESERVE, RIDGE = 5.0, 0.3


@dataclass(frozen=True)
class Rows:
    """Embeddings of one kind: pairs to solve on and held out, kept text to solve on and held out."""

    sources: Tensor  # (n, d)
    targets: Tensor
    held_sources: Tensor
    held_targets: Tensor
    kept: Tensor  # (m, d)
    held_kept: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Rows:
        return Rows(*(change(part) for part in vars(self).values()))

    def sized(self) -> Rows:
        """At a mean square of 1 a dimension."""
        scale = self.kept.square().mean().rsqrt()
        return self.map(lambda z: z * scale)


def solve(*kinds: Rows, preserve: float = PRESERVE) -> Tensor:
    """T (d, d) for the sum of the kinds' objectives."""
    sources, targets, weights = [], [], []
    n = sum(len(rows.sources) for rows in kinds)
    for rows in kinds:
        sources.append(rows.sources)
        targets.append(rows.targets)
        weights.append(torch.full((len(rows.sources),), n / len(rows.sources)))
    moment = sum(rows.kept.double().mT @ rows.kept.double() / len(rows.kept) for rows in kinds)
    pairs = map(torch.cat, (sources, targets, weights))
    return solve_context_map(*pairs, moment, preserve_scale=preserve, ridge=RIDGE)


def figures(T: Tensor, rows: Rows) -> tuple[float, float, float]:
    """(left on the pairs, left on held-out pairs, change of held-out kept text)"""
    T = T.float()

    def left(c: Tensor, s: Tensor) -> float:
        ways = (c - s).norm(dim=1)
        differ = ways > 1e-3 * c.norm(dim=1)
        return ((c @ T.mT - s).norm(dim=1) / ways)[differ].mean().item()

    k = rows.held_kept
    return (
        left(rows.sources, rows.targets),
        left(rows.held_sources, rows.held_targets),
        ((k @ T.mT - k).norm(dim=1) / k.norm(dim=1)).mean().item(),
    )


def compare(name: str, t5: Rows, clip: Rows) -> None:
    t5, clip = t5.sized(), clip.sized()
    d, w = t5.sources.shape[1], clip.sources.shape[1]
    padded = clip.map(lambda z: torch.nn.functional.pad(z, (0, d - w)))
    joint, careful = solve(t5, padded), solve(t5, padded, preserve=2 * PRESERVE)
    for kind, rows, T in (("T5", t5, solve(t5)), ("CLIP", clip, solve(clip))):
        given = rows if kind == "T5" else padded
        columns = figures(T, rows), figures(joint, given), figures(careful, given)
        cells = "   ".join(" ".join(f"{figure:.3f}" for figure in cell) for cell in zip(*columns))
        print(f"{name:28} {kind:5} {cells}", flush=True)


def random_rows(d: int, decay: float, seed: int, pairs: int = 200, held: int = 100, kept: int = 3000) -> Rows:
    """A mean, a spectrum that falls as 1/i^decay, and 4 concepts whose directions come with every source."""
    noise = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise)

    spread = torch.linalg.qr(normal(d, d))[0] * torch.arange(1, d + 1).pow(-decay)
    spread *= d**0.5 / spread.norm()
    mean, shifts = 0.5 * normal(d), normal(4, 2, d) @ spread.mT

    def text(n: int) -> Tensor:
        return mean + normal(n, d) @ spread.mT

    def both(n: int) -> tuple[Tensor, Tensor]:
        base, which = text(n), torch.arange(n) % 4
        return base + shifts[which, 0], base + shifts[which, 1]

    return Rows(*both(pairs), *both(held), text(kept), text(500))


def encoded(encode: Callable[[str], tuple[list[int], Tensor]], tail: int) -> Rows:
    """Pairs of the tokens of a name and what follows it, aligned at their end, in every other template."""

    def pairs(templates: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        sources, targets = [], []
        for template in templates:
            before = template.split("{")[0].strip()
            start = len(encode(before)[0]) if before else 0
            for concept, safe in PAIRS.items():
                (a, c), (b, s) = (encode(fill(template, text)[0]) for text in (concept, safe))
                n = min(len(a) - start, len(b) - start, tail)
                sources.append(c[-n:])
                targets.append(s[-n:])
        return torch.cat(sources), torch.cat(targets)

    def texts(captions: list[str]) -> Tensor:
        return torch.cat([encode(caption)[1] for caption in captions])

    captions = list(BENIGN_CAPTIONS)
    held = [c for i, c in enumerate(captions) if i % 4 == 0]
    return Rows(
        *pairs(TEMPLATES[::2]), *pairs(TEMPLATES[1::2]), texts([c for c in captions if c not in held]), texts(held)
    )


def sentence_encoder(folder: str, width: int) -> Callable[[str], tuple[list[int], Tensor]]:
    """Tokens of a text and their states in every other layer from the last one, side by side, `width` in all."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def encode(text: str) -> tuple[list[int], Tensor]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        states = model(ids, output_hidden_states=True).hidden_states[::-2]
        return ids[0, 1:-1].tolist(), torch.cat([state[0, 1:-1] for state in states], -1)[:, :width]

    return encode


def clip_encoder(file: str) -> Callable[[str], tuple[list[int], Tensor]]:
    """Tokens of a text up to its end, and those channels of their states that are not always zero."""
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    prefix = "cond_stage_model.transformer.text_model."
    tensors = {k.removeprefix(prefix): t.float() for k, t in load_file(file).items() if k.startswith(prefix)}
    model = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072)).eval()
    missing = getattr(model, "text_model", model).load_state_dict(tensors, strict=False).missing_keys
    if missing := [name for name in missing if "position_ids" not in name]:
        raise SystemExit(f"{file} is no SD1.x checkpoint: it lacks {missing[0]}.")
    tokenizer = CLIPTokenizer.from_pretrained(Path(os.environ["COMFYUI_PATH"]) / "comfy" / "sd1_tokenizer")
    last = model.state_dict()[
        "text_model.final_layer_norm.weight" if hasattr(model, "text_model") else "final_layer_norm.weight"
    ]

    @torch.no_grad()
    def encode(text: str) -> tuple[list[int], Tensor]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        return ids[0, 1:].tolist(), model(ids).last_hidden_state[0, 1:][:, last != 0]

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--t5", help="folder of a sentence encoder that transformers loads")
    parser.add_argument("--clip", help="an SD1.x checkpoint")
    args = parser.parse_args()
    print(f"{'':34} left on pairs       held-out pairs      kept text changed (alone, joint, joint with preserve 10)")
    for decay in (0.0, 0.5, 1.0):
        compare(f"random, spectrum 1/i^{decay:g}", random_rows(768, decay, 0), random_rows(384, decay, 1))
    if args.t5 and args.clip:
        clip = encoded(clip_encoder(args.clip), 8)
        t5 = encoded(sentence_encoder(args.t5, 2 * clip.sources.shape[1]), 8)
        compare("trained encoders", t5, clip)


if __name__ == "__main__":
    main()
