"""Trains the demo model's text encoder: `python demo/train_text_encoder.py`.

Like CLIP's, it learns at the end-of-text token: linear heads on the first EoT, a random pad and the last pad must
tell what the caption says. STEPS is the difficulty dial of the whole benchmark. Trained until the heads are perfect,
the encoder puts each concept on one direction at every position, any linear edit then erases everything, and erasure
methods cannot be told apart; trained briefly, words and implicit phrasings stay as related but distinct as in a
real CLIP, where keyword edits fail. The run prints the two cosines that show it.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from captions import NOT_SAID, SHAPES, Captions, evaluation_captions, training_captions
from common import RUNS, save
from drawing import BACKGROUNDS, COLOURS, STYLES
from text_encoder import EOT, LENGTH, WIDTH, encode, text_encoder, tokenize
from torch import Tensor, nn

BATCH = 16
HEADS = (len(SHAPES) + 1, len(COLOURS) + 1, len(STYLES) + 1, len(BACKGROUNDS) + 1)  # last: not said


def labels(captions: Captions) -> Tensor:  # (n, 4)
    said = captions.said
    columns = (said.shape, said.colour, said.style, said.background)
    return torch.stack([torch.where(c == NOT_SAID, h - 1, c) for c, h in zip(columns, HEADS, strict=True)], 1)


def first_eot(ids: Tensor) -> Tensor:  # (n, 77)
    return (ids == EOT).int().argmax(1)


def alignment(model: nn.Module, shape: str, generator: torch.Generator) -> tuple[float, float]:
    """cos(keyword, EoT) and cos(EoT of word, EoT of held-out phrasing) of the direction "shape" minus "circle"."""
    rival = "circle" if shape != "circle" else "square"

    def directions(kind: str) -> tuple[Tensor, Tensor]:
        means = []
        for thing in (shape, rival):
            texts, _ = evaluation_captions(thing, kind, 24, generator)
            ids = tokenize(texts)
            z, eot = encode(model, ids), first_eot(ids)
            n = torch.arange(len(ids))
            word = tokenize([thing])[0, 1]
            key = torch.where((ids == word).any(1), (ids == word).int().argmax(1), eot)
            means.append((z[n, key].mean(0), z[n, eot].mean(0)))
        return means[0][0] - means[1][0], means[0][1] - means[1][1]

    word_key, word_eot = directions("explicit")
    _, phrase_eot = directions("implicit")
    return F.cosine_similarity(word_key, word_eot, 0).item(), F.cosine_similarity(word_eot, phrase_eot, 0).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    options = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = text_encoder()
    heads = nn.Linear(WIDTH, sum(HEADS))
    captions = training_captions(BATCH * options.steps, generator)
    ids, target = tokenize(captions.text), labels(captions)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=options.lr, betas=(0.9, 0.98))
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (step + 1) / 10)
        rows = slice(step * BATCH, (step + 1) * BATCH)
        z = model(input_ids=ids[rows]).last_hidden_state
        n, eot = torch.arange(BATCH), first_eot(ids[rows])
        pad = (eot + 1 + torch.rand(BATCH, generator=generator) * (LENGTH - 1 - eot)).long().clamp(max=LENGTH - 1)
        read = torch.cat([heads(z[n, eot]), heads(z[n, pad]), heads(z[:, -1])])
        loss = sum(
            F.cross_entropy(logits, column)
            for logits, column in zip(read.split(HEADS, 1), target[rows].repeat(3, 1).unbind(1), strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 15 == 14:
            print(f"step {step + 1}/{options.steps}  loss {loss.item():.3f}", flush=True)

    model.eval()
    for shape in ("star", "heart", "square"):
        keyword, phrase = alignment(model, shape, generator)
        print(f"{shape}: cos(keyword, EoT) {keyword:.2f}, cos(EoT of word, EoT of held-out phrasing) {phrase:.2f}")
    save(model.state_dict(), RUNS / "text_encoder.safetensors")


if __name__ == "__main__":
    main()
