"""Stage 1 of the pack against the published procedure, one after the other in one process. See benchmarks/speed.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import official_stage1 as official
import torch
from random_models import SDXL_ROWS, make_clip, make_projections, make_prompts, pack
from torch import Tensor

CAPTIONS = 64  # everyday captions behind P: enough tokens for a full rank
SOLVES = 5  # repeats of what takes milliseconds, the median of which counts


@dataclass(frozen=True)
class Ratio:
    """Official CPU time over ours: the median of paired repeats, and the least and greatest of them."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        span = f" ({min(self.values):,.0f} to {max(self.values):,.0f})" if len(self.values) > 1 else ""
        return f"{self.median:,.0f}x{span}"


def timed(function: Callable, *arguments, **options) -> tuple[float, object]:
    """Seconds of CPU time, which other programs on the machine do not take part in; everything runs on one thread."""
    began = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - began, result


class Stage1:
    """Both procedures on one text encoder and one set of projections, both at the published settings."""

    def __init__(self):
        self.encoder = pack("nodes.host.encoders").ClipEncoder(make_clip())
        self.projections = make_projections()
        self.weights = pack("trce_ops.text.tokens").TokenWeights(sot=0, keyword=0, first_eot=1, pads=0)
        captions = pack("trce_ops.text.captions").BENIGN_CAPTIONS[:CAPTIONS]
        self.P = pack("trce_ops.closed_form.preserve").keep_moment(captions, self.encoder).moment

    # The published procedure

    def _prompt(self, text: str, keyword: str) -> official.Prompt:
        tokens, ids = pack("trce_ops.text.tokens"), self.encoder.tokenize(text)
        eot = tokens.first_eot(ids, self.encoder.eot_id)
        words = tokens.content(self.encoder.tokenize(keyword), self.encoder.eot_id)
        found = tokens.find_keyword(ids, words, self.encoder.eot_id)
        return official.Prompt(ids, (0, eot, len(ids) - 1, found[0]))

    def prepare(self, prompts) -> list[official.Prepared]:
        pairs = [(self._prompt(p.source, p.keyword), self._prompt(p.target, p.safe_keyword)) for p in prompts]
        return official.prepare(lambda ids: self.encoder.encode([ids], len(ids))[0], pairs, self.projections)

    def cache(self) -> list[tuple[Tensor, Tensor]]:
        return official.prior_cache(self.projections, self.P)

    def time_official(self, prompts, cache) -> dict[str, float]:
        encode, prepared = timed(self.prepare, prompts)
        solve, _ = timed(official.refine, self.projections, prepared, cache)
        return {"encode": encode, "edit": solve, "total": encode + solve}

    # Ours

    def embed(self, prompts):
        return pack("trce_ops.text.embeddings").embed_pairs(prompts, self.encoder, self.weights)

    def solve(self, pairs, ridge: float = 0.0, metric: Tensor | None = None) -> tuple[Tensor, ...]:
        settings = {"preserve_scale": official.PRESERVE_MEAN, "ridge": ridge, "metric": metric}
        solve = pack("trce_ops.closed_form.solve").solve_factors
        return solve(pairs.sources, pairs.targets, pairs.weights, self.P, **settings)

    def metric(self) -> Tensor:
        """G of all projections."""
        return pack("trce_ops.closed_form.metric").gram(self.projections, len(self.projections), self.encoder.width)

    def context_map(self, factors: tuple[Tensor, ...]):
        return pack("trce_ops.closed_form.solve").factorize(*factors)

    def apply(self, context_map) -> list[Tensor]:
        """As ComfyUI does when it loads the model: the pack's patch on a copy of every projection."""
        patch = pack("nodes.host.apply").ContextMapPatch(set(), context_map.factors)
        return [patch.calculate_weight(W.clone(), "", 1.0, 1.0, None, lambda a: a) for W in self.projections]

    def time_ours(self, prompts) -> dict[str, float]:
        encode, pairs = timed(self.embed, prompts)
        solves, (factors, *_) = zip(*(timed(self.solve, pairs) for _ in range(SOLVES)))
        factor, context_map = timed(self.context_map, factors)
        apply, _ = timed(self.apply, context_map)
        solve = statistics.median(solves)
        return {
            "encode": encode,
            "solve": solve,
            "edit": solve + factor + apply,
            "total": encode + solve + factor + apply,
        }

    def compare(self, prompts, repeats: int, say: Callable[[str], None]) -> dict[str, Ratio | list[dict[str, float]]]:
        """Ours before and after every official run; each official run is set against the mean of its neighbours."""
        cache = self.cache()
        ours, theirs = [self.time_ours(prompts)], []
        for repeat in range(repeats):
            theirs.append(self.time_official(prompts, cache))
            ours.append(self.time_ours(prompts))
            say(
                f"  {len(prompts)} pairs, {repeat + 1} of {repeats}: official {theirs[-1]['total']:.1f} s "
                f"({theirs[-1]['encode']:.1f} + {theirs[-1]['edit']:.1f}), ours {ours[-1]['total']:.2f} s "
                f"({ours[-1]['encode']:.2f} encoding, {ours[-1]['solve']:.3f} solving)"
            )

        def ratio(step: str, our_step: str) -> Ratio:
            around = [(a[our_step] + b[our_step]) / 2 for a, b in zip(ours, ours[1:])]
            return Ratio(tuple(run[step] / mine for run, mine in zip(theirs, around)))

        return {
            "end_to_end": ratio("total", "total"),
            "solve": ratio("edit", "solve"),
            "edit": ratio("edit", "edit"),
            "encode": ratio("encode", "encode"),
            "official": theirs,
            "ours": ours,
        }

    def growth(self, counts: Sequence[int], repeats: int) -> dict[int, list[tuple[float, float, float]]]:
        """Seconds for so many concepts, by turns: of encoding, from there to the map as published, and as by default,
        where the metric is computed too."""
        seconds = {count: [] for count in counts}
        for _ in range(repeats):
            for count in counts:
                prompts = make_prompts(count)
                encode, pairs = timed(self.embed, prompts)
                solve, _ = timed(lambda pairs=pairs: self.context_map(self.solve(pairs)))
                default, _ = timed(lambda pairs=pairs: self.context_map(self.solve(pairs, 0.3, self.metric())))
                seconds[count].append((encode, solve, default))
        return seconds


def time_sdxl(pairs: int, repeats: int) -> dict[str, list[float]]:
    """Solving and applying at SDXL's shape, 2,048 wide and 140 projections, for random embeddings."""
    noise = torch.Generator().manual_seed(4)
    width = 2048
    projections = make_projections(SDXL_ROWS, width)
    sources, targets = torch.randn(2, pairs, width, generator=noise)
    K = torch.randn(4 * width, width, generator=noise)
    P = (K.mT @ K).double() / len(K)
    solver = pack("trce_ops.closed_form.solve")
    seconds = {"metric": [], "solve": [], "factorize": [], "apply": [], "total": []}
    for _ in range(repeats):
        metric, G = timed(pack("trce_ops.closed_form.metric").gram, projections, len(projections), width)
        solve, solved = timed(
            solver.solve_factors,
            sources,
            targets,
            torch.ones(pairs),
            P,
            preserve_scale=official.PRESERVE_MEAN,
            ridge=0.3,
            metric=G,
        )
        factor, context_map = timed(solver.factorize, *solved)
        patch = pack("nodes.host.apply").ContextMapPatch(set(), context_map.factors)
        apply = 0.0
        for W in projections:
            apply += timed(patch.calculate_weight, W.clone(), "", 1.0, 1.0, None, lambda a: a)[0]
        steps = {"metric": metric, "solve": solve, "factorize": factor, "apply": apply}
        for step, value in (*steps.items(), ("total", sum(steps.values()))):
            seconds[step].append(value)
    return seconds
