"""What an erasure cannot reach is a line in the report on the node and in the log."""

import logging
import runpy
from pathlib import Path

import pytest
import torch

TINY = runpy.run_path(str(Path(__file__).with_name("networks.py")))
pytestmark = pytest.mark.usefixtures("few_captions")
ERASE = dict(concepts="a gun -> an umbrella", keep="a dog")


@pytest.fixture
def report(run, caplog):
    """report(node, ...) -> the report; every line of it that names a limit is in the log too."""

    def build(model, clip, **inputs):
        with caplog.at_level(logging.WARNING):
            text = run("TRCEErase", model=model, clip=clip, **ERASE | inputs)[2]
        for line in text.splitlines():
            assert not line.startswith("Not reached") or line in caplog.text
        return text

    return build


def bypassed(comfy_host, model, clip):
    """MODEL and CLIP with a LoRA by the stock node for bypass mode."""
    import comfy.sd

    noise = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in model.model.state_dict().items()}
    name = next(n for n in shapes if n.endswith("attn2.to_k.weight"))
    n_out, n_in = shapes[name]
    module = name.removesuffix(".weight")
    lora = {
        f"{module}.lora_up.weight": torch.randn(n_out, 2, generator=noise),
        f"{module}.lora_down.weight": torch.randn(2, n_in, generator=noise),
    }
    return comfy.sd.load_bypass_lora_for_models(model, clip, lora, 1.0, 1.0)


def test_a_lora_in_bypass_mode_is_named(comfy_host, report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    assert "bypass" not in report(model, clip)
    patched, _ = bypassed(comfy_host, model, clip)
    assert "bypass mode" in report(patched, clip)


def test_a_lora_in_bypass_mode_is_never_taken_for_another(comfy_host, pack, make_model, make_clip):
    model, clip = make_model(), make_clip()
    fingerprint = pack.host.fingerprint.model_fingerprint
    prints = [fingerprint(model)]
    for _ in range(5):  # each gone before the next comes, which may then lie in the same memory
        patched, _ = bypassed(comfy_host, model, clip)
        prints.append(fingerprint(patched))
        assert fingerprint(patched.clone()) == prints[-1]
        del patched
    assert len(set(prints)) == 6


def test_applying_says_the_same_on_its_node(comfy_host, pack, run, make_model, make_clip, listen):
    shown = []
    listen(lambda node_id, text: shown.append(text))
    model, clip = make_model(), make_clip()
    _, delta, *_ = run("TRCEErase", model=model, clip=clip, **ERASE)
    run("TRCEApplyDelta", model=model, delta=delta, strength=1.0)
    assert shown[-1] == ""
    patched, _ = bypassed(comfy_host, model, clip)
    run("TRCEApplyDelta", model=patched, delta=delta, strength=1.0)
    assert "bypass mode" in shown[-1]


def test_a_map_that_saving_cannot_hold_is_named(pack, make_model, make_clip, report):
    options = TINY["MMDIT"] | dict(adm_in_channels=80)
    options["context_embedder_config"] = dict(target="torch.nn.Linear", params=dict(in_features=4096, out_features=128))
    text = report(make_model(config="SD3", options=options), make_clip(kind="sd3", width=4096))
    assert "Save Model, merges and LoRAs cannot hold it" in text
    assert "Save Model" not in report(make_model(), make_clip())


def test_another_precision_of_the_encoder_is_named(run, make_model, make_clip):
    model, clip = make_model(), make_clip()
    _, delta, *_ = run("TRCEErase", model=model, clip=clip, **ERASE)
    other = make_clip(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="another precision than bfloat16"):
        run("TRCEApplyDelta", model=model, delta=delta, clip=other, strength=1.0)
