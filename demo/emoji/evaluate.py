"""How well the unedited model draws: share of pictures that the judge recognises, by kind of prompt.

Prompts are spread evenly over the concepts; DDIM, 20 steps, guidance 4. Results are kept in chunks, so that a run that
was stopped goes on where it was; --again starts anew. Also writes samples.png: 64 pictures, the first ones, not picked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from captions import PROMPT_KINDS, Caption, prompts
from common import HERE, RUNS, metadata_of, save_grid
from compact import MODEL_FILE, Model, load_compact
from diffusion import sample
from judge import JUDGE_FILE, Judge, judge_all, load_judge
from text_encoder import encode
from world import STYLES, concepts

CHUNK = 48
RESULTS = RUNS / "evaluation.jsonl"
SUMMARY = HERE / "evaluation.json"
NONE = len(concepts())
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """One picture: what was asked, and what the judge saw (concept may be NONE)."""

    concept: int
    style: int
    background: int
    seen_concept: int
    seen_style: int
    seen_background: int


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share = hits / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)


def draw(model: Model, captions: list[Caption], seed: int) -> torch.Tensor:
    """One picture (3, 64, 64) a caption."""
    embeddings = encode(model.text_encoder, [caption.text for caption in captions])
    latents = sample(model.unet, embeddings, encode(model.text_encoder, [""]), seed)
    with torch.no_grad():
        return model.autoencoder.decode(latents).clamp(0, 1)


def outcomes(model: Model, judge: Judge, captions: list[Caption], seed: int) -> list[Outcome]:
    verdict = judge_all(judge, draw(model, captions, seed))
    seen = zip(*(v.argmax(1).tolist() for v in (verdict.concept, verdict.style, verdict.background)), strict=True)
    return [Outcome(c.concept, c.style, c.background, *found) for c, found in zip(captions, seen, strict=True)]


def fingerprint() -> str:
    """Of the model and the judge: results of others are not mixed in."""
    digest = hashlib.sha256()
    for path in (MODEL_FILE, JUDGE_FILE):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def evaluate(count: int, kinds: list[str], again: bool) -> dict[str, dict]:
    if again:
        RESULTS.unlink(missing_ok=True)
    mine, known = fingerprint(), {}
    if RESULTS.exists():
        for line in RESULTS.read_text().splitlines():
            row = json.loads(line)
            if row["of"] == mine:
                known[row["kind"], row["chunk"]] = [Outcome(*o) for o in row["outcomes"]]
    model, judge = load_compact(), load_judge()
    for kind in kinds:
        captions = prompts(kind, -(-count // CHUNK) * CHUNK)
        for chunk in range(len(captions) // CHUNK):
            if (kind, chunk) not in known:
                part = captions[chunk * CHUNK : (chunk + 1) * CHUNK]
                known[kind, chunk] = outcomes(model, judge, part, seed=1000 * PROMPT_KINDS.index(kind) + chunk)
                rows = [list(vars(o).values()) for o in known[kind, chunk]]
                with open(RESULTS, "a") as file:
                    file.write(json.dumps({"of": mine, "kind": kind, "chunk": chunk, "outcomes": rows}) + "\n")
            log.info("%s: %d of %d pictures", kind, (chunk + 1) * CHUNK, len(captions))
    summary = {}
    for kind in PROMPT_KINDS:  # also what earlier runs of the same model found
        if found := [outcome for (of, _), rows in known.items() if of == kind for outcome in rows]:
            summary[kind] = summarise(found)
            log.info("%s: %s", kind, {k: v for k, v in summary[kind].items() if k != "missed"})
    return summary


def summarise(found: list[Outcome]) -> dict:
    count = len(found)
    hits = sum(o.seen_concept == o.concept for o in found)
    low, high = wilson(hits, count)
    missed: dict[str, list[str]] = {}
    for o in found:
        if o.seen_concept != o.concept:
            seen = "none of these" if o.seen_concept == NONE else concepts()[o.seen_concept].name
            missed.setdefault(concepts()[o.concept].name, []).append(seen)
    of_style = {
        name: round(sum(o.seen_style == o.style for o in rows) / len(rows), 3)
        for i, name in enumerate(STYLES)
        if (rows := [o for o in found if o.style == i])
    }
    return {
        "pictures": count,
        "concept": round(hits / count, 3),
        "interval": [round(low, 3), round(high, 3)],
        "none of these": round(sum(o.seen_concept == NONE for o in found) / count, 3),
        "style": round(sum(o.seen_style == o.style for o in found) / count, 3),
        "style by style": of_style,
        "background": round(sum(o.seen_background == o.background for o in found) / count, 3),
        "missed": dict(sorted(missed.items(), key=lambda item: -len(item[1]))),
    }


def write_samples(path: Path = HERE / "samples.png") -> None:
    """64 prompts, half explicit and half held-out descriptions: the first of each kind. Made once for a model."""
    listing, mine = path.with_suffix(".txt"), f"model {fingerprint()}"
    if path.exists() and listing.exists() and listing.read_text().splitlines()[0] == mine:
        return
    model = load_compact()
    pictures = [draw(model, prompts(kind, 32), seed) for seed, kind in enumerate(("explicit", "described held out"))]
    save_grid(torch.cat(pictures), path, columns=16)
    lines = [caption.text for kind in ("explicit", "described held out") for caption in prompts(kind, 32)]
    listing.write_text("\n".join([mine, *lines]) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=480, help="of each kind of prompt")
    parser.add_argument("--kinds", nargs="+", choices=PROMPT_KINDS, default=list(PROMPT_KINDS))
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    write_samples()
    rates = evaluate(arguments.pictures, arguments.kinds, arguments.again)
    seen = metadata_of(MODEL_FILE)["pictures"]
    SUMMARY.write_text(json.dumps({"pictures in training": seen, "rates": rates}, indent=1) + "\n")
