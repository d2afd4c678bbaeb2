"""benchmarks/gpu.py on models a few channels wide, without a GPU: that it runs, and that its parts are independent."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(comfy_host, monkeypatch):
    """module(name) -> one of the benchmarks' modules, imported as its script does it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("part", ["tuning", "memory", "graphs", "sd1", "sdxl"])
def test_a_part_finds_what_it_is_to_find(module, part, tmp_path):
    parts = module("gpu_parts")
    run = parts.Run("cpu", small=True, file=tmp_path / "part.json")
    with torch.inference_mode():
        parts.PARTS[part](run)
    assert json.loads(run.file.read_text(encoding="utf-8")) == run.found
    assert all(value for name, value in run.found.items() if name.startswith("ok"))
    expected = {
        "tuning": {"ok_moved", "ok_restored", "ok_applied", "ok_cancelled"},
        "memory": {"QUICK", "PAPER"},
        "graphs": {"small"},
        "sd1": {"stage1_seconds", "quick_seconds_estimated", "sampling_overhead"},
    }
    assert expected.get(part, expected["sd1"]) <= run.found.keys()


def test_a_part_that_is_stopped_does_not_cost_the_next_one(module, monkeypatch, tmp_path):
    gpu = module("gpu")
    monkeypatch.setattr(gpu, "LIMITS", gpu.LIMITS | {"tuning": 0.1, "exactness": 500})
    parts = ["--parts", "tuning", "exactness"]
    assert gpu.main(["--device", "cpu", "--small", "--output", str(tmp_path), *parts]) == 1
    stopped, finished = (json.loads((tmp_path / f"{part}.json").read_text(encoding="utf-8")) for part in parts[1:])
    assert stopped["ended"] == "stopped after 0.1 s"
    assert finished["ended"] == "finished" and finished["wrong"] == []
    assert all(finished[f"ok_{dtype}"] for dtype in ("fp32", "fp16", "bf16", "fp8"))


def test_a_map_on_the_weights_that_differs_from_the_one_on_the_text_is_found(module, monkeypatch):
    parts = module("gpu_parts")
    monkeypatch.setattr(parts, "DTYPES", {"fp32": torch.float32})
    make_delta = parts.random_models.make_delta

    def twice(shape, **options):
        """On the text the map acts with twice the strength that it has on the weights."""
        delta = make_delta(shape, **options)
        context_map = type(delta.context_map)
        monkeypatch.setattr(context_map, "apply", lambda self, c: c + 2 * self.shift(c))
        return delta

    monkeypatch.setattr(parts.random_models, "make_delta", twice)
    run = parts.Run("cpu", small=True)
    with torch.inference_mode():
        parts.exactness(run)
    assert run.found["ok_fp32"] is False


def test_all_parts_together_take_less_than_eight_minutes(module):
    gpu = module("gpu")
    assert sum(gpu.LIMITS.values()) < 480
    assert gpu.LIMITS.keys() == module("gpu_parts").PARTS.keys()
