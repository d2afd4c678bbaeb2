"""A model from a GGUF file is erased as its unpacked twin is: nothing reads packed bytes as numbers."""

import logging

import pytest
import torch

CONCEPTS = "a gun -> an umbrella\nblood"
KEEP = "a dog"


pytestmark = pytest.mark.usefixtures("few_captions")


@pytest.fixture
def twins(comfy_host, pack, make_model):
    """The packed MODEL and the plain one that holds the same numbers."""
    import packed_model

    packed, plain = make_model(), make_model()
    keys = pack.host.readers.find_text_readers(packed).keys
    return packed_model.packed_copy(packed, keys), packed_model.rounded_copy(plain, keys)


@pytest.fixture(scope="module", autouse=True)
def importable(comfy_host):
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


def lora(pack, model):
    """MODEL with a change on the first weight that reads the text."""
    key = pack.host.readers.find_text_readers(model).keys[0]
    change = torch.randn(
        pack.host.weights.ModelWeights(model).shapes()[key], generator=torch.Generator().manual_seed(3)
    )
    patched = model.clone()
    assert patched.add_patches({key: ("diff", (change,))}, 0.5)
    return patched


def prompts(clip, *texts):
    with torch.inference_mode():
        return [clip.encode_from_tokens(clip.tokenize(text)) for text in texts]


def test_weights_are_read_unpacked_with_and_without_patches(pack, twins, make_clip, sample):
    clip = make_clip()
    readers = pack.host.readers.find_text_readers(twins[1])
    for change in (lambda model: model, lambda model: lora(pack, model)):
        packed, plain = (pack.host.weights.ModelWeights(change(model)) for model in twins)
        for _ in range(2):  # the second time while ComfyUI has the patched weights in place
            for key in readers.keys:
                assert packed.shapes()[key] == plain.shapes()[key]
                assert torch.equal(packed.base(key), plain.base(key))
                assert torch.equal(packed.patched(key), plain.patched(key))
            for weights in (packed, plain):
                sample(weights.model, *prompts(clip, "a gun", ""))


@pytest.mark.parametrize("with_lora", [False, True])
def test_the_delta_is_that_of_the_unpacked_model(pack, run, twins, make_clip, with_lora):
    clip = make_clip()
    models = [lora(pack, model) if with_lora else model for model in twins]
    asked = dict(clip=clip, concepts=CONCEPTS, keep=KEEP)
    maps = [run("TRCEErase", model=model, **asked)[1].context_map.dense() for model in models]
    assert torch.equal(*maps)


def test_the_erased_model_draws_what_the_unpacked_one_draws(run, twins, make_clip, sample):
    clip = make_clip()
    erased = [run("TRCEErase", model=model, clip=clip, concepts=CONCEPTS, keep=KEEP)[0] for model in twins]
    told = prompts(clip, "a gun", "")
    packed, plain = (sample(model, *told) for model in erased)
    change = (sample(twins[1], *told) - plain).abs().max()
    assert change > 1e-2
    assert (packed - plain).abs().max() < 1e-3 * change


def test_a_lora_of_the_delta_is_that_of_the_unpacked_model(run, twins, make_clip):
    clip = make_clip()
    loras = []
    for model in twins:
        _, delta, *_ = run("TRCEErase", model=model, clip=clip, concepts=CONCEPTS, keep=KEEP)
        loras.append(run("TRCEDeltaToLoRA", model=model, delta=delta)[0])
    assert loras[0].keys() == loras[1].keys() and loras[0]
    assert all(torch.equal(loras[0][key], loras[1][key]) for key in loras[0])


def test_an_unknown_packing_is_reported_and_the_settings_are_those_without_the_metric(
    run, twins, make_clip, monkeypatch, caplog, trce_settings
):
    import packed_model

    monkeypatch.delattr(packed_model.PackedLinear, "get_weight")
    asked = dict(clip=make_clip(), concepts=CONCEPTS, keep=KEEP)
    with caplog.at_level(logging.WARNING):
        _, delta, report, *_ = run("TRCEErase", model=twins[0], **asked)
    assert "without the metric" in report and "packed" in report and "packed" in caplog.text
    assert (delta.info.settings["metric"], delta.info.settings["preserve"]) == (False, 3.0)
    settings = trce_settings(closed_form=dict(metric=False, preserve=3.0))
    _, alone, *_ = run("TRCEErase", model=twins[1], **asked, settings=settings)
    assert torch.equal(delta.context_map.dense(), alone.context_map.dense())


class RowScaled(torch.nn.Module):
    """A layer as quantisers have it that keep float codes and multiply each row by its scale."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True)
        self.weight = torch.nn.Parameter(linear.weight.detach() / scale, requires_grad=False)
        self.hold(scale)
        self.bias = linear.bias

    def hold(self, scale):
        self.register_buffer("scale", scale)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight * self.scale, self.bias)


class RowScaledByDict(RowScaled):
    """The same with the scale where torch does not look for tensors."""

    def hold(self, scale):
        self.state = {"scale": scale}

    @property
    def scale(self):
        return self.state["scale"]


@pytest.mark.parametrize(("layer", "scale"), [(RowScaled, "scale"), (RowScaledByDict, "state.scale")])
def test_codes_whose_scales_stand_beside_them_are_not_taken_for_weights(pack, run, make_model, make_clip, layer, scale):
    import comfy.utils

    model = make_model()
    for key in pack.host.readers.find_text_readers(model).keys:
        parent, _, leaf = key.removesuffix(".weight").rpartition(".")
        owner = comfy.utils.get_attr(model.model, parent)
        owner._modules[leaf] = layer(getattr(owner, leaf))
    _, delta, report, *_ = run("TRCEErase", model=model, clip=make_clip(), concepts=CONCEPTS, keep=KEEP)
    assert "without the metric" in report and f"combines with '{scale}'" in report
    assert delta.info.settings["metric"] is False
