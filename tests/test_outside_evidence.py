"""The page for people with the public weights: its first script, on a stand-in for diffusers' pipeline."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

PAGE = Path(__file__).resolve().parent.parent / "docs" / "outside-evidence.md"
BLOCKS = [
    *(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
    "mid_block.attentions.0",
    *(f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3)),
]  # of SD1.x in diffusers that read the text
TEXT = {f"{block}.transformer_blocks.0.attn2.to_{x}.weight" for block in BLOCKS for x in "kv"}


class Unet(torch.nn.Module):
    """SD1.4's text projections, narrower, and one weight that no erasure touches."""

    def __init__(self):
        super().__init__()
        self.weights = {name: torch.zeros(2, 3) for name in (*TEXT, "conv_in.weight")}

    def state_dict(self):
        return dict(self.weights)

    def load_state_dict(self, state, strict):
        assert not strict and state.keys() <= self.weights.keys()
        self.weights |= state


@pytest.fixture
def run_script(monkeypatch):
    """run_script(file): what the page's first script saves."""
    script = re.findall(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.S)[0]

    def run(file):
        saved = {}
        pipe = SimpleNamespace(unet=Unet(), save_pretrained=lambda folder: saved.update(pipe.unet.weights))
        diffusers = ModuleType("diffusers")
        diffusers.StableDiffusionPipeline = SimpleNamespace(from_pretrained=lambda *_, **__: pipe)
        monkeypatch.setitem(sys.modules, "diffusers", diffusers)
        monkeypatch.setattr(sys, "argv", ["erased_folder.py", str(file), "folder"])
        exec(compile(script, str(PAGE), "exec"), {})  # noqa: S102 - our own page
        return saved

    return run


def test_the_script_puts_the_edited_weights_into_the_folder_and_leaves_the_rest(run_script, tmp_path, capsys):
    edited = {name: torch.full((2, 3), 0.5, dtype=torch.float16) for name in TEXT}
    save_file(edited, tmp_path / "erased.safetensors")
    saved = run_script(tmp_path / "erased.safetensors")
    assert all((saved[name] == 0.5).all() and saved[name].dtype == torch.float32 for name in TEXT)
    assert (saved["conv_in.weight"] == 0).all()
    assert "32 of 33 tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    "edited",
    [{}, {"diffusion_model.x.weight": torch.zeros(2, 3)}, {min(TEXT): torch.zeros(2, 4)}],
    ids=["empty", "other names", "other shapes"],
)
def test_the_script_stops_at_a_file_of_another_model(run_script, tmp_path, edited):
    save_file(edited, tmp_path / "erased.safetensors")
    with pytest.raises(SystemExit, match="no weights of this model"):
        run_script(tmp_path / "erased.safetensors")


def test_the_node_names_sd14s_projections_as_diffusers_does(comfy_host):
    import comfy.utils

    unet = dict(
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=(1, 2, 4, 4),
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
    )
    names = comfy.utils.unet_to_diffusers(unet)
    assert {name for name in names if re.search(r"attn2\.to_[kv]\.weight$", name)} == TEXT
