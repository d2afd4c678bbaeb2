"""The erased delta as a file: it comes back as it went, and a bad one is refused with a sentence."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import trce_ops
from trce_ops.delta.file import FORMAT, DeltaError, DeltaInfo, ErasedDelta, load_delta, save_delta
from trce_ops.delta.low_rank import ContextMap, WeightChange
from trce_ops.text.concepts import ConceptPair

INFO = DeltaInfo(
    family="sd1",
    encoder="0123abcd",
    concepts=(ConceptPair("Van Gogh", "a painting"), ConceptPair("caf\u00e9")),
    keep=("a dog",),
    settings={"preserve": 0.1, "templates": True},
    measured={"moved_first_eot": 0.0123},
    pack_version="0.1.0",
)


def factors(d=8, r=2):
    noise = torch.Generator().manual_seed(0)
    return torch.randn(d, r, generator=noise), torch.randn(r, d, generator=noise)


MAPS = {"context": ContextMap(factors())}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delta.safetensors"


@pytest.mark.parametrize("tensors", [factors(), (torch.eye(8),), factors(8, 0)])
def test_round_trip(path, tensors):
    save_delta(ErasedDelta({"context": ContextMap(tensors)}, INFO), path)
    delta = load_delta(path)
    assert delta.info == INFO
    assert len(delta.context_map.factors) == len(tensors)
    assert all(torch.equal(a, b) for a, b in zip(delta.context_map.factors, tensors))


MODULE = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
TUNED = {
    MODULE: WeightChange((torch.ones(6, 2), torch.eye(2, 5))),
    "diffusion_model.attn2.to_v": WeightChange((torch.full((3, 8), 0.5),)),
}


@pytest.mark.parametrize("shape", [(3 * 6144, 6144), (6 * 6144, 6144), (3 * 3072 + 12288, 3072)])
def test_the_largest_projections_of_flux_come_back(path, shape):
    """Fused queries, keys and values, and what a block reads at once."""
    out, width = shape
    tuned = {"diffusion_model.single_blocks.0.linear1": WeightChange((torch.ones(out, 1), torch.ones(1, width)))}
    save_delta(ErasedDelta(MAPS, INFO, tuned), path)
    assert load_delta(path).tuned.popitem()[1].shape == shape


def test_the_tuned_part_comes_back_too(path):
    info = replace(INFO, method="trce", settings={"tune_loss": "tau", "tune_steps": 300})
    save_delta(ErasedDelta(MAPS, info, TUNED), path)
    assert f"tuned.{MODULE}.lora_up" in load_file(path)
    delta = load_delta(path)
    assert delta.info == info
    assert delta.tuned.keys() == TUNED.keys()
    for module, change in TUNED.items():
        assert delta.tuned[module].shape == change.shape
        assert all(torch.equal(a, b) for a, b in zip(delta.tuned[module].factors, change.factors))
    first = path.read_bytes()
    save_delta(replace(delta, tuned=dict(reversed(delta.tuned.items()))), path)
    assert path.read_bytes() == first


def test_maps_for_other_kinds_of_text_and_their_space_come_back_too(path):
    maps = {**MAPS, "pooled": ContextMap(factors(5, 1)), "llama": ContextMap((torch.eye(3),))}
    save_delta(ErasedDelta(maps, replace(INFO, space="post-norm")), path)
    assert {"pooled_map.up", "pooled_map.down", "llama_map"} < load_file(path).keys()
    delta = load_delta(path)
    assert delta.info.space == "post-norm"
    assert delta.maps.keys() == maps.keys()
    for kind, context_map in maps.items():
        assert all(torch.equal(a, b) for a, b in zip(delta.maps[kind].factors, context_map.factors))


def test_a_file_without_a_checksum_can_be_read(tmp_path, path):
    tensors, metadata = good(tmp_path)
    del metadata["sha256"]
    save_file(tensors, path, metadata)
    assert load_delta(path).info == INFO
    assert load_delta(path).maps.keys() == {"context"}


def test_the_size_of_a_change_needs_no_product():
    for change in TUNED.values():
        assert change.square_norm().item() == pytest.approx(change.dense().square().sum().item())


def test_the_file_is_plain_safetensors(path):
    save_delta(ErasedDelta(MAPS, INFO), path)
    tensors = load_file(path)
    assert torch.equal(tensors["context_map.up"], factors()[0])
    assert torch.equal(tensors["context_map.down"], factors()[1])


SAVE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("trce_ops", sys.argv[1])
sys.modules["trce_ops"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
delta = module.delta.load_delta(sys.argv[2])
module.delta.save_delta(delta, sys.argv[3])
"""


def test_the_same_delta_gives_the_same_bytes_in_another_process(path):
    save_delta(ErasedDelta(MAPS, INFO), path)
    copy = path.with_name("copy.safetensors")
    subprocess.run([sys.executable, "-c", SAVE, trce_ops.__file__, path, copy], check=True)
    assert copy.read_bytes() == path.read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save_delta(ErasedDelta(MAPS, INFO), path)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def good(tmp_path):
    """Tensors and metadata of a sound file, to be spoilt."""
    path = tmp_path / "good.safetensors"
    save_delta(ErasedDelta(MAPS, INFO), path)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return load_file(path), header["__metadata__"]


UP, DOWN = "context_map.up", "context_map.down"
SPOILT_TENSORS = {
    "no tensors": ({}, "none"),
    "an unknown tensor": ({UP: factors()[0], DOWN: factors()[1], "other": torch.ones(1)}, "other"),
    "half of the factors": ({UP: factors()[0]}, "holds the tensors"),
    "both forms": ({UP: factors()[0], DOWN: factors()[1], "context_map": torch.eye(8)}, "holds the tensors"),
    "not square": ({"context_map": torch.ones(8, 7)}, "shapes"),
    "a vector": ({"context_map": torch.ones(8)}, "shapes"),
    "factors that do not meet": ({UP: torch.ones(8, 2), DOWN: torch.ones(3, 8)}, "shapes"),
    "factors of two widths": ({UP: torch.ones(8, 2), DOWN: torch.ones(2, 9)}, "shapes"),
    "a rank above the width": ({UP: torch.ones(8, 9), DOWN: torch.ones(9, 8)}, "shapes"),
    "an absurd width": ({UP: torch.ones(20000, 1), DOWN: torch.ones(1, 200_000)}, "shapes"),
    "float16": ({"context_map": torch.eye(8).half()}, "float32"),
    "integers": ({"context_map": torch.eye(8).int()}, "float32"),
    "NaN": ({"context_map": torch.full((8, 8), torch.nan)}, "NaN or Inf"),
    "Inf": ({UP: factors()[0], DOWN: factors()[1] / 0}, "NaN or Inf"),
}
MAP = {UP: factors()[0], DOWN: factors()[1]}
A = "tuned.diffusion_model.attn1.to_q"
SPOILT_TENSORS |= {
    "a tuned part alone": ({f"{A}.diff": torch.ones(4, 4)}, "holds the tensors none"),
    "half of a tuned projection": ({**MAP, f"{A}.lora_up": torch.ones(4, 2)}, "lora_up of the tuned projection"),
    "both forms of a tuned projection": (
        {**MAP, f"{A}.diff": torch.ones(4, 4), f"{A}.lora_up": torch.ones(4, 2), f"{A}.lora_down": torch.ones(2, 4)},
        "diff and lora_down and lora_up",
    ),
    "tuned factors that do not meet": (
        {**MAP, f"{A}.lora_up": torch.ones(4, 2), f"{A}.lora_down": torch.ones(3, 4)},
        "which make no change of weights",
    ),
    "a tuned rank above the width": (
        {**MAP, f"{A}.lora_up": torch.ones(4, 5), f"{A}.lora_down": torch.ones(5, 4)},
        "which make no change of weights",
    ),
    "a tuned vector": ({**MAP, f"{A}.diff": torch.ones(4)}, "which make no change of weights"),
    "an absurd tuned width": ({**MAP, f"{A}.diff": torch.ones(1, 200_000)}, "which make no change of weights"),
    "another tuned tensor": ({**MAP, f"{A}.alpha": torch.ones(1)}, "names no part"),
    "a tuned name that is none": ({**MAP, "tuned.a b/../c.d.diff": torch.ones(2, 2)}, "names no part"),
    "a tuned part in float16": ({**MAP, f"{A}.diff": torch.ones(4, 4).half()}, "float32"),
    "a tuned NaN": ({**MAP, f"{A}.diff": torch.full((4, 4), torch.nan)}, "NaN or Inf"),
    "too many tuned projections": (
        {**MAP, **{f"tuned.a.b{i}.diff": torch.ones(1, 1) for i in range(4097)}},
        "4097 projections",
    ),
}
SPOILT_TENSORS |= {
    "a pooled map alone": ({"pooled_map": torch.eye(8)}, "holds the tensors pooled_map; expected context_map"),
    "half of a pooled map": ({**MAP, "pooled_map.up": torch.ones(8, 2)}, "holds the tensors"),
    "a map for another kind of text": ({**MAP, "audio_map": torch.eye(8)}, "holds the tensors audio_map"),
    "a pooled map that is not square": ({**MAP, "pooled_map": torch.ones(8, 7)}, "shapes"),
    "a pooled NaN": ({**MAP, "pooled_map": torch.full((8, 8), torch.nan)}, "NaN or Inf"),
}
SPOILT_METADATA = {
    "another space": ({"space": "sideways"}, "'sideways'; this pack knows embedding and post-norm"),
    "another format": ({"format": "lora"}, "format"),
    "a later version": ({"version": "2"}, "update the pack"),
    "no JSON": ({"settings": "{"}, "metadata"),
    "deep JSON": ({"settings": "[" * 100_000}, "metadata"),
    "concepts that are no pairs": ({"concepts": '["a"]'}, "metadata"),
    "concepts that are no text": ({"concepts": "[[1, 2]]"}, "metadata"),
    "a keep list that is none": ({"keep": "5"}, "metadata"),
    "figures that are no numbers": ({"measured": '{"a": "b"}'}, "metadata"),
    "settings that are a list": ({"settings": "[1]"}, "metadata"),
    "a setting that is a list": ({"settings": '{"a": [1]}'}, "metadata"),
    "too much of it": ({"keep": json.dumps(["x" * 5_000_000])}, "header"),
}


@pytest.mark.parametrize("case", SPOILT_TENSORS)
def test_unfit_tensors_are_refused(tmp_path, path, case):
    tensors, says = SPOILT_TENSORS[case]
    _, metadata = good(tmp_path)
    save_file(tensors, path, metadata)
    with pytest.raises(DeltaError, match=f"'delta.safetensors' .*{says}"):
        load_delta(path)


@pytest.mark.parametrize("case", SPOILT_METADATA)
def test_unfit_metadata_is_refused(tmp_path, path, case):
    change, says = SPOILT_METADATA[case]
    tensors, metadata = good(tmp_path)
    save_file(tensors, path, {**metadata, **change})
    with pytest.raises(DeltaError, match=f"'delta.safetensors' .*{says}"):
        load_delta(path)


@pytest.mark.parametrize("key", ["concepts", "keep", "settings", "measured", "family", "encoder", "method", "format"])
def test_missing_metadata_is_refused(tmp_path, path, key):
    tensors, metadata = good(tmp_path)
    del metadata[key]
    save_file(tensors, path, metadata)
    with pytest.raises(DeltaError):
        load_delta(path)


def test_files_that_are_no_safetensors_are_refused(tmp_path, path):
    good(tmp_path)
    whole = (tmp_path / "good.safetensors").read_bytes()
    huge = (1 << 62).to_bytes(8, "little")
    cut = (b"", b"1234", whole[:-1], whole[:100])
    for spoilt in (*cut, b"a text file, not a delta", whole + b"more", huge + whole[8:]):
        path.write_bytes(spoilt)
        with pytest.raises(DeltaError, match="'delta.safetensors'"):
            load_delta(path)
    with pytest.raises(DeltaError, match="cannot be read"):
        load_delta(tmp_path / "missing.safetensors")


def test_a_header_larger_than_any_delta_has_is_not_parsed(path):
    size = 5_000_000
    path.write_bytes(size.to_bytes(8, "little") + b" " * size)
    with pytest.raises(DeltaError, match="its header has 5000000 bytes"):
        load_delta(path)


def test_every_refusal_is_one_sentence(tmp_path, path):
    tensors, metadata = good(tmp_path)
    save_file(tensors, path, {**metadata, "format": "lora"})
    with pytest.raises(DeltaError) as refusal:
        load_delta(path)
    assert "\n" not in str(refusal.value)
    assert FORMAT in str(refusal.value)


def test_the_longest_lists_that_the_widgets_take_can_be_loaded_again(path):
    long = tuple(ConceptPair(f"{i:03}" + "\u00e9" * 297, "\u00e9" * 300) for i in range(256))
    info = replace(INFO, concepts=long, keep=tuple(pair.concept for pair in long))
    save_delta(ErasedDelta(MAPS, info), path)
    assert load_delta(path).info == info
