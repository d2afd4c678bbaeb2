"""The erased delta: an erasure as a small safetensors file that anyone can read, share and apply.

Tensors, all float32: D = T - I of the context map, either as `context_map` (d, d), or as `context_map.up` (d, r) and
`context_map.down` (r, d) with D = up @ down. Models that read more kinds of text have the same under `pooled_map` (the
pooled vector; 1280 wide in SDXL), `clip_map` (the rows of CLIP between those of T5) and `llama_map`. A tuned erasure
also has, per projection (tuning/factors.py), either `tuned.<module>.diff` (out, in), or `tuned.<module>.lora_up`
(out, r) and `tuned.<module>.lora_down` (r, in). `__metadata__`: the strings of info.py, format, version, and sha256
(atomic.checksum of everything else).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files.atomic import CHECKSUM, brief, checksum, write_whole
from .info import DeltaError, DeltaInfo, read_info, write_info
from .low_rank import PARTS, ContextMap, Tuned, WeightChange

FORMAT = "trce.erased_delta"
VERSION = "1"
MAX_HEADER = 1 << 22  # bytes; room for the longest lists that the nodes accept
MAX_BYTES = 1 << 33  # of the file: room for whole matrices of all attention in SDXL
MAX_WIDTH = 16384  # of a map
MAX_SIDE = 1 << 17  # of a tuned projection: fused ones have 36,864 rows in Flux.2

KINDS = ("context", "pooled", "clip", "llama")  # of text, each with its own map; only the first is required
TUNED_NAME = re.compile(r"tuned\.(?P<module>\w+(\.\w+)+)\.(?P<part>diff|lora_up|lora_down)", re.ASCII)
MAX_TUNED = 4096  # projections


@dataclass(frozen=True)
class ErasedDelta:
    """An erasure: a map for every kind of text that the model reads, tuned weight changes, and its description."""

    maps: Mapping[str, ContextMap]  # by KINDS
    info: DeltaInfo
    tuned: Tuned = field(default_factory=dict)

    @property
    def context_map(self) -> ContextMap:
        """The map of what cross-attention or a transformer reads as its sequence of text."""
        return self.maps[KINDS[0]]


def save_delta(delta: ErasedDelta, path: str | os.PathLike) -> None:
    """Write `delta` whole or not at all; equal deltas give equal bytes. Raises OSError."""
    write_whole(path, delta_bytes(delta))


def delta_bytes(delta: ErasedDelta) -> bytes:
    """The content of the file."""
    metadata = {"format": FORMAT, "version": VERSION, **write_info(delta.info)}
    tensors = {}
    for kind, context_map in sorted(delta.maps.items(), key=lambda named: KINDS.index(named[0])):
        tensors.update(zip(_map_names(kind, len(context_map.factors)), context_map.factors))
    for module, change in sorted(delta.tuned.items()):
        tensors.update(change.named(f"tuned.{module}"))
    return _pack(tensors, {**metadata, CHECKSUM: _checksum(tensors, metadata)})


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    rest = {key: text for key, text in metadata.items() if key != CHECKSUM}
    return checksum(tensors, json.dumps(rest, sort_keys=True))


def _pack(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The safetensors format, written here because its own writer orders the metadata at random."""
    header: dict[str, object] = {"__metadata__": metadata}
    data = bytearray()
    for name, tensor in tensors.items():
        raw = tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header, sort_keys=True).encode()
    head += b" " * (-len(head) % 8)  # the format requires aligned data
    return len(head).to_bytes(8, "little") + head + data


def load_delta(path: str | os.PathLike) -> ErasedDelta:
    """Read and check a delta. Raises DeltaError with one sentence that names the file and what is wrong with it."""
    path = Path(path)
    try:
        return _load(path)
    except DeltaError as error:
        raise DeltaError(f"'{path.name}' cannot be used: {brief(error)}") from None
    except (SafetensorError, OSError) as error:
        raise DeltaError(
            f"'{path.name}' cannot be read as a safetensors file; save or download it again ({brief(error)})."
        ) from None


def _load(path: Path) -> ErasedDelta:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    if MAX_HEADER < header <= size:
        raise DeltaError(f"its header has {header} bytes, more than the {MAX_HEADER} a delta may have.")
    if size > MAX_BYTES:
        raise DeltaError(f"it has {size} bytes, more than the {MAX_BYTES} a delta may have.")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise DeltaError(
                f"its format is {metadata.get('format')!r}, not '{FORMAT}'; choose a file of Save Erased Delta."
            )
        if metadata.get("version") != VERSION:
            raise DeltaError(
                f"its version is {metadata.get('version')!r} and this pack reads '{VERSION}'; update the pack."
            )
        info = read_info(metadata)

        def shape(name: str) -> tuple[int, ...]:
            return tuple(file.get_slice(name).get_shape())

        changed = [name for name in file.keys() if name.startswith("tuned.")]
        map_names = _kinds(set(file.keys()) - set(changed), shape)
        tuned_names = _tuned_names(changed, shape)
        if {file.get_slice(name).get_dtype() for name in file.keys()} != {"F32"}:
            raise DeltaError("its tensors are not float32.")
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # clone: not tied to the open file
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise DeltaError("it holds NaN or Inf; make the delta again.")
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors, metadata):
        raise DeltaError("it has been damaged or edited since it was saved: its checksum differs; download it again.")
    maps = {kind: ContextMap(tuple(tensors[name] for name in parts)) for kind, parts in map_names.items()}
    tuned = {module: WeightChange(tuple(tensors[name] for name in parts)) for module, parts in tuned_names.items()}
    return ErasedDelta(maps, info, tuned)


def _map_names(kind: str, factors: int) -> tuple[str, ...]:
    return (f"{kind}_map",) if factors == 1 else (f"{kind}_map.up", f"{kind}_map.down")


def _kinds(names: set[str], shape: Callable[[str], tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """The tensor names of every kind of text, up before down. Raises DeltaError unless they make a map each."""
    found = {}
    for kind in KINDS:
        for parts in (_map_names(kind, 1), _map_names(kind, 2)):
            if set(parts) == {name for name in names if name.split(".")[0] == f"{kind}_map"}:
                found[kind] = parts
    if KINDS[0] not in found or set().union(*found.values()) != names:
        raise DeltaError(
            f"it holds the tensors {', '.join(sorted(names))[:300] or 'none'}; expected {_map_names(KINDS[0], 1)[0]}, "
            f"or {' and '.join(_map_names(KINDS[0], 2))}, and the same for {', '.join(KINDS[1:])}."
        )
    for parts in found.values():
        shapes = [shape(name) for name in parts]
        d, r = shapes[0] if len(shapes[0]) == 2 else (0, 0)
        if not 0 < d <= MAX_WIDTH or r > d or shapes not in ([(d, d)], [(d, r), (r, d)]):
            raise DeltaError(f"its tensors have the shapes {shapes}, which make no map from embeddings to embeddings.")
    return found


def _tuned_names(names: Sequence[str], shape: Callable[[str], tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """The tensor names of every tuned module, up before down. Raises DeltaError unless they make a change each."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        match = TUNED_NAME.fullmatch(name)
        if not match:
            raise DeltaError(f"it holds the tensor {name[:200]!r}, which names no part of a tuned projection.")
        parts.setdefault(match["module"], []).append(match["part"])
    if len(parts) > MAX_TUNED:
        raise DeltaError(f"it tunes {len(parts)} projections, more than the {MAX_TUNED} a delta may have.")
    found = {}
    for module, given in parts.items():
        wanted = PARTS.get(len(given), ())
        if sorted(wanted) != given:
            raise DeltaError(
                f"it holds {' and '.join(given)} of the tuned projection {module}; "
                f"expected {PARTS[1][0]}, or {' and '.join(PARTS[2])}."
            )
        found[module] = tuple(f"tuned.{module}.{part}" for part in wanted)
        shapes = [shape(name) for name in found[module]]
        sizes = [size for given_shape in shapes for size in given_shape]
        fits = all(len(given_shape) == 2 for given_shape in shapes) and all(0 < size <= MAX_SIDE for size in sizes)
        if not fits or len(shapes) == 2 and not sizes[1] == sizes[2] <= min(sizes[0], sizes[3]):
            raise DeltaError(f"the tuned projection {module} has the shapes {shapes}, which make no change of weights.")
    return found
