"""What becomes of an erasure in ComfyUI's own nodes: merged, saved, compiled, patched, hooked, controlled, in regions.

Exact means: the same nodes draw the same when the conditioning is mapped instead of the model. docs/in-the-graph.md is
the table of what these tests show.
"""

import importlib
import runpy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

NETWORKS = runpy.run_path(str(Path(__file__).with_name("networks.py")))
KREA = dict(features=64, tdim=32, txtdim=24, heads=2, kvheads=1, multiplier=2, layers=1, txtlayers=3, txtheads=2)
KREA |= dict(txtkvheads=2, image_model="krea2")
SD1_KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True)
class Family:
    config: str
    options: dict | None
    shape: tuple
    width: int
    streams: dict = field(default_factory=dict)


FAMILIES = {
    "sd1": Family("SD15", None, (1, 4, 8, 8), 32),
    "sdxl": Family("SDXL", NETWORKS["SDXL"], (1, 4, 8, 8), 24, dict(pooled=20)),
    "sd3": Family("SD3", NETWORKS["MMDIT"], (1, 16, 8, 8), 24, dict(pooled=20, clip=10)),
    "sd3 without clip": Family("SD3", NETWORKS["MMDIT"], (1, 16, 8, 8), 24, dict(pooled=20)),
    "krea2": Family("Krea2", KREA, (1, 16, 8, 8), 72),
}
CLIP_ROWS = 4  # of SD3's prompts


class Graph:
    """A small model of a family, an erasure for it, and a prompt and a negative prompt, random all of them."""

    def __init__(self, pack, make_model, sample, name):
        self.pack, self.make_model, self.sample = pack, make_model, sample
        self.family = FAMILIES[name]
        ContextMap = pack.ops.delta.low_rank.ContextMap
        noise = torch.Generator().manual_seed(0)
        maps = {
            kind: ContextMap((torch.randn(d, 4, generator=noise), torch.randn(4, d, generator=noise) / 4))
            for kind, d in {"context": self.family.width, **self.family.streams}.items()
        }
        info = pack.ops.delta.file.DeltaInfo(name.split()[0], "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
        self.delta = pack.ops.delta.file.ErasedDelta(maps, info)
        c, pooled = torch.randn(2, 1, 10, self.family.width, generator=noise), torch.randn(2, 1, 20, generator=noise)
        if clip := self.family.streams.get("clip"):
            c[:, :, :CLIP_ROWS, clip:] = 0
        self.prompts = [[[text, {"pooled_output": p}]] for text, p in zip(c, pooled)]
        self.mapped = [[[self._map(text), {"pooled_output": self._map(p, "pooled")}]] for text, p in zip(c, pooled)]

    def _map(self, text, kind="context"):
        mapped = self.delta.maps
        if kind == "context" and "clip" in mapped:
            clip = mapped["clip"].apply(text[:, :CLIP_ROWS, : mapped["clip"].width])
            padded = torch.nn.functional.pad(clip, (0, self.family.width - clip.shape[-1]))
            return torch.cat([padded, mapped["context"].apply(text[:, CLIP_ROWS:])], 1)
        return mapped[kind].apply(text) if kind in mapped else text

    def model(self, seed=0):
        model = self.make_model(seed, config=self.family.config, options=self.family.options)
        if self.family.config == "SD3":
            model.model.diffusion_model.pos_embed.normal_(generator=torch.Generator().manual_seed(3))
        return model

    def erase(self, model):
        return self.pack.host.apply.apply_delta(model, self.delta, 1.0)

    def draw(self, model, prompts):
        return self.sample(model, *prompts, shape=self.family.shape)

    def assert_exact(self, through=lambda model: model, prompts=lambda *pair: pair, tolerance=1e-4, seed=0):
        """The nodes on the model and on the prompts do with an erased model what they do with a mapped prompt."""
        model, text, mapped = self.model(seed), prompts(*self.prompts), prompts(*self.mapped)
        original, expected = self.draw(through(model), text), self.draw(through(model), mapped)
        assert error(self.draw(through(self.erase(model)), text), expected, original) < tolerance, "node after erasing"
        assert error(self.draw(self.erase(through(model)), text), expected, original) < tolerance, "node before erasing"


@pytest.fixture
def graph(pack, make_model, sample):
    return lambda name="sd1": Graph(pack, make_model, sample, name)


def error(drawn, expected, original):
    """Largest difference, as a share of what the erasure changes."""
    change = (expected - original).abs().max()
    assert change > 1e-3
    return ((drawn - expected).abs().max() / change).item()


def call(module, node, *inputs, **widgets):
    """The first output of a stock node of ComfyUI, by its class."""
    kind = getattr(importlib.import_module(module), node)
    run = kind.execute if hasattr(kind, "execute") else getattr(kind(), kind.FUNCTION)
    outputs = run(*inputs, **widgets)
    outputs = getattr(outputs, "args", outputs)
    return outputs[0] if outputs else None  # nodes that save have none


def merge(node, *inputs):
    return call("comfy_extras.nodes_model_merging", node, *inputs)


def weights(model):
    """All weights of a MODEL with its patches on them."""
    return {
        key: model.patch_weight_to_device(key, return_weight=True).float()
        for key in model.model.state_dict()
        if key.startswith("diffusion_model.")
    }


@pytest.fixture
def output(comfy_host, tmp_path, monkeypatch):
    """The output folder of this test, in which the stock loaders of models and LoRAs look too."""
    paths, endings = comfy_host.folder_paths, {".safetensors"}
    monkeypatch.setattr(paths, "output_directory", str(tmp_path))
    for kind in ("loras", "diffusion_models", "checkpoints"):
        monkeypatch.setitem(paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], endings))
    return tmp_path


# Merging


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_merges_mix_the_erased_weights(graph, family):
    g = graph(family)
    model, other = g.model(), g.model(seed=9)
    erased = g.erase(model)
    W, WT, V = map(weights, (model, erased, other))
    assert max((WT[key] - W[key]).abs().max() for key in W) > 0.1

    def blocks(key):
        ratios = {"input": 0.2, "middle": 0.5, "out": 0.9}
        return next((r for name, r in ratios.items() if key.startswith(f"diffusion_model.{name}")), 0.2)

    for merged, expected in (
        (merge("ModelMergeSimple", erased, other, 0.7), lambda k: 0.7 * WT[k] + 0.3 * V[k]),
        (merge("ModelMergeSimple", other, erased, 0.7), lambda k: 0.7 * V[k] + 0.3 * WT[k]),
        (
            call("comfy_extras.nodes_model_merging", "ModelMergeBlocks", erased, other, input=0.2, middle=0.5, out=0.9),
            lambda k: blocks(k) * WT[k] + (1 - blocks(k)) * V[k],
        ),
        (merge("ModelSubtract", erased, other, 1.0), lambda k: WT[k] - V[k]),
        (merge("ModelAdd", erased, other), lambda k: WT[k] + V[k]),
        # The erasure alone, put on another checkpoint.
        (merge("ModelAdd", other, merge("ModelSubtract", erased, model, 1.0)), lambda k: V[k] + WT[k] - W[k]),
    ):
        for key, weight in weights(merged).items():
            assert torch.allclose(weight, expected(key), atol=1e-4), key


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "krea2"])
def test_erasing_from_a_merged_model_erases_from_both(graph, family):
    g = graph(family)
    merged = merge("ModelMergeSimple", g.model(), g.model(seed=9), 0.5)
    expected, original = g.draw(merged, g.mapped), g.draw(merged, g.prompts)
    assert error(g.draw(g.erase(merged), g.prompts), expected, original) < 1e-4


def test_a_map_on_the_conditioning_comes_with_the_first_input_of_a_merge_and_not_with_the_second(graph):
    """Whole, whatever the ratio."""
    g = graph("krea2")
    model, other = g.model(), g.model(seed=9)
    plain = merge("ModelMergeSimple", model, other, 0.5)
    first, second = (
        merge("ModelMergeSimple", *pair, 0.5) for pair in ((g.erase(model), other), (model, g.erase(other)))
    )
    expected, original = g.draw(plain, g.mapped), g.draw(plain, g.prompts)
    assert error(g.draw(first, g.prompts), expected, original) < 1e-4
    assert torch.equal(g.draw(second, g.prompts), original)


# Saving


def saved_model(comfy_host, output, model):
    """What the stock Save Model writes."""
    call("comfy_extras.nodes_model_merging", "ModelSave", model, "diffusion_models/saved")
    (path,) = (output / "diffusion_models").iterdir()
    return path


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("node", ["ModelSave", "CheckpointSave"])
def test_a_saved_model_draws_what_the_erased_one_drew(graph, make_clip, output, family, node):
    g = graph(family)
    erased = g.erase(g.model())
    drawn = g.draw(erased, g.prompts)
    given = (erased, make_clip(), None) if node == "CheckpointSave" else (erased,)
    call("comfy_extras.nodes_model_merging", node, *given, "checkpoints/saved")
    (path,) = (output / "checkpoints").iterdir()
    loaded = g.model(seed=5)
    loaded.model.load_model_weights(load_file(path), "model.diffusion_model.")
    assert error(g.draw(loaded, g.prompts), drawn, g.draw(g.model(), g.prompts)) < 1e-4


def test_a_saved_sd3_comes_back_through_the_stock_loader(graph, comfy_host, output):
    """SD3 with one map for all of its tokens, as Delta to LoRA takes it; see the next test for two."""
    g = graph("sd3 without clip")
    erased = g.erase(g.model())
    path = saved_model(comfy_host, output, erased)
    loaded = call("nodes", "UNETLoader", path.name, "default")
    drawn, original = g.draw(erased, g.prompts), g.draw(g.model(), g.prompts)
    assert error(g.draw(loaded, g.prompts), drawn, original) < 1e-4


def test_sd3s_maps_per_encoder_are_not_in_what_is_saved(pack, graph, comfy_host, output):
    g = graph("sd3")
    model = g.model()
    path = saved_model(comfy_host, output, g.erase(model))
    loaded = call("nodes", "UNETLoader", path.name, "default")
    (text, _), (_, pooled) = g.prompts[0][0], g.mapped[0][0]
    (empty, _), (_, of_empty) = g.prompts[1][0], g.mapped[1][0]
    only_pooled = [[text, pooled]], [[empty, of_empty]]
    expected, original = g.draw(model, only_pooled), g.draw(model, g.prompts)
    assert error(g.draw(loaded, g.prompts), expected, original) < 1e-4


@pytest.mark.parametrize("family", ["sd3", "krea2"])
def test_what_no_weights_can_hold_is_no_lora_and_the_report_says_so(pack, graph, run, family):
    g = graph(family)
    (line,) = pack.host.limits.limits(g.model(), g.delta)
    assert "Save Model, merges and LoRAs cannot hold it" in line
    with pytest.raises(pack.host.errors.HostError, match="Weights cannot hold this erasure"):
        run("TRCEDeltaToLoRA", model=g.model(), delta=g.delta)


def test_one_map_for_all_tokens_of_sd3_is_a_lora(pack, graph, run):
    g = graph("sd3 without clip")
    model = g.model()
    assert not pack.host.limits.limits(model, g.delta)
    lora, _ = run("TRCEDeltaToLoRA", model=model, delta=g.delta)
    loaded = call("comfy_extras.nodes_train", "LoraModelLoader", model, lora, 1.0)
    erased = g.draw(g.erase(model), g.prompts)
    assert error(g.draw(loaded, g.prompts), erased, g.draw(model, g.prompts)) < 1e-4


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_whole_lora_of_the_stock_extraction_is_exact_up_to_half_precision(graph, output, family):
    g = graph(family)
    model = g.model()
    erased = g.erase(model)
    difference = merge("ModelSubtract", erased, model, 1.0)
    call("comfy_extras.nodes_lora_extract", "LoraSave", "loras/saved", 8, "full_diff", True, difference)
    (path,) = (output / "loras").iterdir()
    loaded = call("nodes", "LoraLoaderModelOnly", model, path.name, 1.0)
    drawn, original = g.draw(erased, g.prompts), g.draw(model, g.prompts)
    assert error(g.draw(loaded, g.prompts), drawn, original) < 5e-3


def test_a_small_lora_of_delta_to_lora_is_closer_than_the_stock_extraction(graph, run, output):
    """At the same rank: the stock node clamps the largest entries of its factors."""
    g = graph()
    model = g.model()
    erased = g.erase(model)
    difference = merge("ModelSubtract", erased, model, 1.0)
    call("comfy_extras.nodes_lora_extract", "LoraSave", "loras/stock", 4, "standard", True, difference)
    stock = call("nodes", "LoraLoaderModelOnly", model, next((output / "loras").iterdir()).name, 1.0)
    lora, _ = run("TRCEDeltaToLoRA", model=model, delta=g.delta, form="low rank", energy=0.999999, max_rank=4)
    ours = call("comfy_extras.nodes_train", "LoraModelLoader", model, lora, 1.0)
    drawn, original = g.draw(erased, g.prompts), g.draw(model, g.prompts)
    small, clamped = (error(g.draw(loaded, g.prompts), drawn, original) for loaded in (ours, stock))
    assert small < 0.01
    assert clamped > 5 * small


# Compiling


@pytest.mark.parametrize("family", ["sd1", "krea2"])
def test_a_compiled_model_is_erased_before_and_after(graph, family):
    graph(family).assert_exact(lambda m: call("comfy_extras.nodes_torch_compile", "TorchCompileModel", m, "eager"))


# Sampling, guidance and other patches of MODEL

SAMPLING = {
    "sd1": {
        "ModelSamplingDiscrete": ("model_advanced", "v_prediction", True),
        "ModelSamplingContinuousEDM": ("model_advanced", "v_prediction", 120.0, 0.002),
        "RescaleCFG": ("model_advanced", 0.7),
        "FreeU": ("freelunch", 1.3, 1.4, 0.9, 0.2),
        "FreeU_V2": ("freelunch", 1.3, 1.4, 0.9, 0.2),
        "PerturbedAttentionGuidance": ("pag", 3.0),
        "SelfAttentionGuidance": ("sag", 0.5, 2.0),
        "PerpNeg": ("perpneg", [[torch.zeros(1, 10, 32), {}]], 1.0),
        "CFGZeroStar": ("cfg",),
        "CFGNorm": ("cfg", 1.0),
        "TCFG": ("tcfg",),
        "FreSca": ("fresca", 1.0, 1.25, 2),
        "APG": ("apg", 1.0, 5.0, 0.0),
        "Mahiro": ("mahiro",),
        "HyperTile": ("hypertile", 32, 1, 0, False),
        "UNetCrossAttentionMultiply": ("attention_multiply", 1.0, 1.2, 0.8, 1.0),
    },
    "sdxl": {"RescaleCFG": ("model_advanced", 0.7), "FreeU_V2": ("freelunch", 1.3, 1.4, 0.9, 0.2)},
    "sd3": {"ModelSamplingSD3": ("model_advanced", 3.0), "CFGZeroStar": ("cfg",), "APG": ("apg", 1.0, 5.0, 0.0)},
    "krea2": {"CFGNorm": ("cfg", 1.0), "ModelSamplingSD3": ("model_advanced", 3.0)},
}


@pytest.mark.parametrize(
    ("family", "node", "given"), [(f, node, given) for f, nodes in SAMPLING.items() for node, given in nodes.items()]
)
def test_nodes_that_change_how_a_model_is_sampled_do_so_with_an_erased_one(graph, family, node, given):
    module, *widgets = given
    graph(family).assert_exact(lambda model: call(f"comfy_extras.nodes_{module}", node, model, *widgets))


def attention(q, k, v, options):
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, heads=options["n_heads"])


def pictures(width):
    """Keys or values of a picture's tokens, made by weights of the pack's own."""
    return torch.randn(1, 4, width, generator=torch.Generator().manual_seed(width))


def as_ip_adapter(model):
    """A replaced cross-attention: that of the text, whose keys and values it is given, and that of a picture."""

    def replace(q, k, v, options):
        own = pictures(q.shape[-1]).expand(len(q), -1, -1)
        return attention(q, k, v, options) + 0.5 * attention(q, own, own, options)

    patched = model.clone()
    patched.set_model_attn2_replace(replace, "middle", 0)
    patched.set_model_attn2_replace(replace, "output", 3)
    return patched


def as_attention_couple(model):
    """The text goes on in another order, as in packs that give every region its own prompt."""
    patched = model.clone()
    patched.set_model_attn2_patch(lambda n, context, value, options: (n, context.flip(1), value.roll(1, 1)))
    patched.set_model_attn2_output_patch(lambda n, options: n * 1.1)
    return patched


@pytest.mark.parametrize("pack_of_others", [as_ip_adapter, as_attention_couple])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_attention_patches_are_given_erased_keys_and_values(graph, family, pack_of_others):
    graph(family).assert_exact(pack_of_others)


def test_attention_patches_that_read_the_text_with_weights_of_their_own_get_it_as_it_is(graph):
    g, seen = graph(), []
    erased = g.erase(g.model())
    erased.set_model_attn2_patch(lambda n, context, value, options: (seen.append(context), (n, context, value))[1])
    g.draw(erased, g.prompts)
    given = {text.flatten()[0].item() for ((text, _),) in g.prompts}
    assert {c.flatten()[0].item() for contexts in seen for c in contexts} == given


# Hooks, ControlNet


def lora():
    """A LoRA file on one projection that reads the text."""
    noise = torch.Generator().manual_seed(3)
    return {SD1_KEY.replace(".weight", ".diff"): 0.3 * torch.randn(64, 32, generator=noise)}


def test_a_lora_that_comes_by_a_hook_is_that_of_load_lora_after_the_erasure(graph):
    """It is added to the erased weights and keeps what it knows, where its conditioning says so and nowhere else."""
    import comfy.hooks
    import comfy.sd

    g = graph()
    erased = g.erase(g.model())
    hooks = comfy.hooks.create_hook_lora(lora(), 0.8, 0.0)
    hooked = call("comfy_extras.nodes_hooks", "SetModelHooksOnCond", g.prompts[0], hooks)
    negative = call("comfy_extras.nodes_hooks", "SetModelHooksOnCond", g.prompts[1], hooks)
    loaded, _ = comfy.sd.load_lora_for_models(erased, None, lora(), 0.8, 0.0)
    expected, plain = g.draw(loaded, g.prompts), g.draw(erased, g.prompts)
    assert error(g.draw(erased.clone(), (hooked, negative)), expected, plain) < 1e-4
    assert torch.equal(g.draw(erased, g.prompts), plain)


def cond_pair(positive, negative):
    """Cond Pair Set Props with a mask and a range of timesteps, over a default for the rest."""
    from comfy_extras.nodes_hooks import PairConditioningSetDefaultAndCombine, PairConditioningSetProperties

    mask = torch.zeros(1, 8, 8)
    mask[..., :5] = 1
    pair = PairConditioningSetProperties().set_properties(
        positive, negative, 0.9, "default", mask=mask, timesteps=(0.0, 0.6)
    )
    return PairConditioningSetDefaultAndCombine().set_default_and_combine(*pair, negative, negative)


def regions(positive, negative):
    """Two prompts in an area and under a mask, one of them for the first steps, combined."""
    mask = torch.zeros(1, 8, 8)
    mask[:, 3:] = 1
    area = call("nodes", "ConditioningSetArea", positive, 32, 64, 0, 0, 1.0)
    masked = call("nodes", "ConditioningSetMask", negative, mask, "default", 0.8)
    first = call("nodes", "ConditioningSetTimestepRange", positive, 0.0, 0.5)
    rest = call("nodes", "ConditioningSetTimestepRange", masked, 0.5, 1.0)
    both = call("nodes", "ConditioningCombine", area, first)
    return call("nodes", "ConditioningCombine", both, rest), negative


def mixed(positive, negative):
    """Concat, Average and Zero Out: they commute with a map that is linear."""
    average = call("nodes", "ConditioningAverage", positive, negative, 0.6)
    return call("nodes", "ConditioningConcat", average, negative), call("nodes", "ConditioningZeroOut", negative)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "krea2"])
@pytest.mark.parametrize("nodes", [regions, mixed, cond_pair])
def test_every_prompt_of_a_conditioning_is_erased_in_its_region_and_its_time(graph, family, nodes):
    graph(family).assert_exact(prompts=nodes)


def test_controlnet_reads_the_prompt_as_it_is_and_the_model_does_not(graph):
    """The erased model draws what the mapped prompt draws with a ControlNet that is given the unmapped one."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    g = graph()
    options = dict(g.model().model.model_config.unet_config)
    for unknown in ("out_channels", "transformer_depth_output"):
        options.pop(unknown)
    network = comfy.cldm.cldm.ControlNet(**options, hint_channels=3, operations=comfy.ops.manual_cast)
    noise = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=noise))
    before = {key: weight.clone() for key, weight in network.state_dict().items()}
    net = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))

    def controlled(*pair, own=g.prompts):
        from nodes import ControlNetApplyAdvanced

        pair = ControlNetApplyAdvanced().apply_controlnet(*pair, net, torch.ones(1, 64, 64, 3), 1.0, 0.0, 1.0)
        # as CLIP Text Encode (Controlnet) gives a ControlNet its own prompt
        return [[[c, {**o, "cross_attn_controlnet": text}]] for ((c, o),), ((text, _),) in zip(pair, own)]

    g.assert_exact(prompts=controlled)
    model = g.model()
    drawn = g.draw(g.erase(model), controlled(*g.prompts))
    assert error(g.draw(g.erase(model), controlled(*g.prompts, own=g.mapped)), drawn, g.draw(model, g.prompts)) > 1e-3
    assert all(torch.equal(weight, before[key]) for key, weight in network.state_dict().items())
