"""Every row of the registry, on ComfyUI's own classes: the map on its weights is the map on the text.

What reads the text is found by what it does, not by its name or width: a layer whose input changes with the text as the
text itself does. The registry has to name these layers and no others.
"""

import importlib
import runpy
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

NETWORKS = runpy.run_path(str(Path(__file__).with_name("networks.py")))["NETWORKS"]
CASES = [(name, kind) for name, network in NETWORKS.items() for kind in network.text]


class Base(torch.nn.Module):
    """What ComfyUI has around a diffusion model, as far as a patch is concerned."""

    def __init__(self, config, network):
        super().__init__()
        self.model_config = config
        self.diffusion_model = network
        self.current_weight_patches_uuid = None
        self.device = torch.device("cpu")


@pytest.fixture(scope="module")
def build(comfy_host, fill_weights):
    """build(name) -> a MODEL, its texts by kind, and a function from texts to what it draws."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    operations = comfy.ops.disable_weight_init

    def make(name):
        spec = NETWORKS[name]
        module, _, kind = f"comfy.ldm.{spec.path}".rpartition(".")
        network = getattr(importlib.import_module(module), kind)
        network = network(**spec.options, dtype=torch.float32, device="cpu", operations=operations)
        spec.finish(network, operations)
        config = object.__new__(getattr(comfy.supported_models, spec.config))
        cpu = torch.device("cpu")
        model = comfy.model_patcher.ModelPatcher(Base(config, fill_weights(network, 0)).eval(), cpu, cpu)
        noise = torch.Generator().manual_seed(1)
        x, t = torch.randn(spec.x, generator=noise), torch.tensor([0.4, 0.7])
        texts = {kind: torch.randn(shape, generator=noise) for kind, shape in spec.text.items()}

        def draw(texts):
            with torch.inference_mode():
                return spec.forward(network, x.clone(), t, **{kind: text.clone() for kind, text in texts.items()})

        return SimpleNamespace(model=model, network=network, texts=texts, draw=draw)

    return make


def random_map(width, parts=1):
    """T = I + D, general; with several parts it keeps to each of them."""
    noise, size = torch.Generator().manual_seed(2), width // parts
    blocks = [0.5 * torch.randn(size, size, generator=noise) / size**0.5 for _ in range(parts)]
    return torch.block_diag(*blocks)


def mapped(texts, kind, D):
    return {**texts, kind: texts[kind] + texts[kind] @ D.mT}


def inputs(case, texts):
    """What goes into every layer of the network."""
    seen = {}

    def watch(name):
        def note(module, args, kwargs):
            seen.setdefault(name, [*args, *kwargs.values()][0].clone())

        return note

    hooks = [
        module.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, module in case.network.named_modules()
        if getattr(module, "weight", None) is not None
    ]
    try:
        case.draw(texts)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def follow(case, before, after, D):
    """Layers whose input went from a to T a, in its first columns, and did not stay as it was."""
    found = set()
    for name, a in before.items():
        b, d = after[name], len(D)
        if not a.is_floating_point() or a.shape != b.shape or a.shape[-1] < d or a.ndim < 2:
            continue
        expected = torch.cat([a[..., :d] + a[..., :d] @ D.mT, a[..., d:]], -1)
        if torch.allclose(b, expected, atol=1e-4) and not torch.allclose(b, a, atol=1e-3):
            found.add(name)
    return found


@contextmanager
def acting(case, norms, blocks):
    """The map on what comes out of the norms, block by block."""
    hooks = [
        module.register_forward_hook(lambda module, args, out, D=D: out + out @ D.mT)
        for module, D in zip((case.network.get_submodule(name) for name in norms), blocks)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def bits(network):
    return {key: weight.clone() for key, weight in network.state_dict().items()}


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture
def delta_for(pack):
    """delta_for(readers, kind, D) -> a delta with that map for that kind of text, and none for the tokens otherwise."""
    ContextMap = pack.ops.delta.low_rank.ContextMap

    def make(readers, kind, D):
        info = pack.ops.delta.file.DeltaInfo(readers.family, "encoder", (), space=readers.space)
        width = readers.streams["context"].width if "context" in readers.streams else 24
        nothing = ContextMap((torch.zeros(width, 0), torch.zeros(0, width)))
        maps = {"context": nothing, kind: ContextMap((D,))}
        return pack.ops.delta.file.ErasedDelta(maps, info)

    return make


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_map_on_the_weights_is_the_map_on_the_text(pack, build, delta_for, name, kind):
    case = build(name)
    readers = pack.host.readers.find_text_readers(case.model)
    stream = readers.streams[kind]
    named = [key.removeprefix("diffusion_model.").removesuffix(".weight") for key in stream.keys]
    assert stream.width == case.texts[kind].shape[-1]
    parts = len(stream.norm.gains) if stream.norm else 1
    D = random_map(stream.width, parts)
    size = stream.width // parts
    blocks = [D[i : i + size, i : i + size] for i in range(0, stream.width, size)]

    with_map = mapped(case.texts, kind, D)
    before, after = inputs(case, case.texts), inputs(case, with_map)
    first = set().union(*(follow(case, before, after, block) for block in blocks))
    norms = [name for name in before if name in first and case.network.get_submodule(name).weight.ndim == 1]
    if stream.norm:
        assert first == set(norms)
        with acting(case, norms, blocks):
            found, reference = follow(case, before, inputs(case, case.texts), D), case.draw(case.texts)
    else:
        found, reference = first, case.draw(with_map)
    assert found == set(named)
    assert len(set(named)) == len(named) > 0

    original, weights = case.draw(case.texts), bits(case.network)
    erased = pack.host.apply.apply_delta(case.model, delta_for(readers, kind, D), 1.0)
    erased.patch_model()
    patched = case.draw(case.texts)
    erased.unpatch_model()
    assert difference(reference, original) > 1e-3
    assert difference(patched, reference) < 1e-5
    assert all(torch.equal(weight, weights[key]) for key, weight in bits(case.network).items())


def test_every_row_on_weights_is_tested(pack, build):
    rows = [pack.host.readers.find_text_readers(build(name).model).row for name in NETWORKS]
    tested = [(row.name, row.readers) for row in rows]
    families = pack.module.nodes.host.families.FAMILIES
    assert [row for row in families if not row.conditioning and (row.name, row.readers) not in tested] == []


def test_every_class_named_is_one_of_comfyuis(pack):
    import comfy.supported_models

    named = [config for row in pack.module.nodes.host.families.FAMILIES for config in row.configs]
    for config in named:
        getattr(comfy.supported_models, config)
    assert {kind.__name__ for kind in comfy.supported_models.models} >= set(named)


@pytest.mark.parametrize("config", ["HunyuanDiT", "StableAudio3", "Hunyuan3Dv2_1", "SVD_img2vid", "HiDreamO1", "SAM31"])
def test_an_architecture_without_a_row_is_refused_by_name(pack, build, config):
    import comfy.supported_models

    model = build("sd1").model
    model.model.model_config = object.__new__(getattr(comfy.supported_models, config))
    with pytest.raises(pack.host.errors.HostError, match=f"'model' is a {config} .*sdxl"):
        pack.host.readers.find_text_readers(model)


def test_a_model_whose_layers_are_not_where_its_family_has_them_is_refused(pack, build):
    import comfy.supported_models

    model = build("sd1").model
    model.model.model_config = object.__new__(comfy.supported_models.Flux)
    with pytest.raises(pack.host.errors.HostError, match="'model' is a Flux, but its layers differ from"):
        pack.host.readers.find_text_readers(model)


@pytest.mark.parametrize("name", ["qwen-image", "lens", "z-image"])
def test_the_norm_is_computed_as_the_model_computes_it(pack, build, name):
    case, seen = build(name), []
    norm = pack.host.readers.find_text_readers(case.model).streams["context"].norm
    for module in (m for n, m in case.network.named_modules() if n.startswith(("txt_norm", "cap_embedder.0"))):
        module.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    case.draw(case.texts)
    assert torch.allclose(norm(case.texts["context"]), torch.cat(seen, -1), atol=1e-5)
