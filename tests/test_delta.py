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
from trce_ops.concepts import ConceptPair
from trce_ops.context_map import ContextMap
from trce_ops.delta import FORMAT, DeltaError, DeltaInfo, ErasedDelta, load_delta, save_delta

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delta.safetensors"


@pytest.mark.parametrize("tensors", [factors(), (torch.eye(8),), factors(8, 0)])
def test_round_trip(path, tensors):
    save_delta(ErasedDelta(ContextMap(tensors), INFO), path)
    delta = load_delta(path)
    assert delta.info == INFO
    assert len(delta.context_map.factors) == len(tensors)
    assert all(torch.equal(a, b) for a, b in zip(delta.context_map.factors, tensors))


def test_the_file_is_plain_safetensors(path):
    save_delta(ErasedDelta(ContextMap(factors()), INFO), path)
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
    save_delta(ErasedDelta(ContextMap(factors()), INFO), path)
    copy = path.with_name("copy.safetensors")
    subprocess.run([sys.executable, "-c", SAVE, trce_ops.__file__, path, copy], check=True)
    assert copy.read_bytes() == path.read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save_delta(ErasedDelta(ContextMap(factors()), INFO), path)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def good(tmp_path):
    """Tensors and metadata of a sound file, to be spoilt."""
    path = tmp_path / "good.safetensors"
    save_delta(ErasedDelta(ContextMap(factors()), INFO), path)
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
    "an absurd width": ({UP: torch.ones(20000, 1), DOWN: torch.ones(1, 20000)}, "shapes"),
    "float16": ({"context_map": torch.eye(8).half()}, "float32"),
    "integers": ({"context_map": torch.eye(8).int()}, "float32"),
    "NaN": ({"context_map": torch.full((8, 8), torch.nan)}, "NaN or Inf"),
    "Inf": ({UP: factors()[0], DOWN: factors()[1] / 0}, "NaN or Inf"),
}
SPOILT_METADATA = {
    "another format": ({"format": "lora"}, "format"),
    "a later version": ({"version": "2"}, "update the pack"),
    "no JSON": ({"settings": "{"}, "metadata"),
    "deep JSON": ({"settings": "[" * 100_000}, "metadata"),
    "concepts that are no pairs": ({"concepts": '["a"]'}, "metadata"),
    "concepts that are no text": ({"concepts": "[[1, 2]]"}, "metadata"),
    "a keep list that is none": ({"keep": "5"}, "metadata"),
    "figures that are no numbers": ({"measured": '{"a": "b"}'}, "metadata"),
    "settings that are a list": ({"settings": "[1]"}, "metadata"),
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
    save_delta(ErasedDelta(ContextMap(factors()), info), path)
    assert load_delta(path).info == info
