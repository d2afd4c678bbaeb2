"""How the tests get at the pack, at a real ComfyUI, and at small models.

The pack is loaded as ComfyUI loads it: from its path, under a name made of that path. Its root never goes on sys.path,
where its `nodes` would hide ComfyUI's nodes.py. `trce_ops` alone is importable by its own name, without ComfyUI.

COMFYUI_PATH says where ComfyUI is; .host/ComfyUI otherwise.
"""

import importlib
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import traceback
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load("trce_ops", ROOT / "trce_ops" / "__init__.py")
load("tools", ROOT / "tools" / "__init__.py")

from tools.host import Host  # noqa: E402 - known by that name from here on
from tools.installation import Installation  # noqa: E402
from tools.pins import COMFYUI_VERSION  # noqa: E402

# What an older ComfyUI lacks that tests use. If the pack itself uses it, the test fails.
ABSENT = r"No module named 'comfy\.ldm|'comfy\.(supported_models|lora)' has no attribute|'use_sequential_txt_ids'"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Side by side run the files, each in one piece; those that need a server take longest, and begin."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.stem))
    slow = {item.path for item in items if "server" in item.fixturenames}
    items.sort(key=lambda item: item.path not in slow)


def through_the_pack(error):
    """Whether the pack's own code was running when the error was raised."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return any(path.is_relative_to(ROOT / folder) for path in frames for folder in ("nodes", "trce_ops"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test of an architecture that came later is skipped in an older ComfyUI, and only there."""
    try:
        return (yield)
    except (ImportError, AttributeError, TypeError) as error:
        older = Installation.from_environment().version not in (None, COMFYUI_VERSION)
        if not older or not re.search(ABSENT, str(error)) or through_the_pack(error):
            raise
        pytest.skip(f"this ComfyUI is too old: {error}")


from trce_ops.text.embeddings import EotEncoder  # noqa: E402 - known by that name from here on


class ToyEncoder(EotEncoder):
    """A causal text encoder without weights to load: a position sees the mean of the tokens so far and its own place.

    Words longer than four letters split into several tokens, as BPE does to rare words.
    """

    eot_id = 1
    width = 24

    def __init__(self, pad_id=1, fingerprint="toy"):
        noise = torch.Generator().manual_seed(0)
        self.pad_id = pad_id
        self.fingerprint = fingerprint
        self.table = torch.randn(5010, self.width, generator=noise)
        self.places = 0.3 * torch.randn(77, self.width, generator=noise)
        self.encoded = []  # (rows, length) of every call

    def tokenize(self, text):
        from trce_ops.text.tokens import TokenError

        pieces = [word[i : i + 4] for word in text.lower().split() for i in range(0, len(word), 4)]
        if len(pieces) > 75:
            raise TokenError(f"'{text}' is too long.")
        ids = [0, *(10 + zlib.crc32(piece.encode()) % 5000 for piece in pieces), self.eot_id]
        return tuple(ids + [self.pad_id] * (77 - len(ids)))

    def encode(self, rows, length):
        self.encoded.append((len(rows), length))
        x = self.table[torch.tensor([ids[:length] for ids in rows])]
        mean = x.cumsum(1) / torch.arange(1, length + 1)[:, None]
        return torch.tanh(x + 2 * mean) + self.places[:length]


@pytest.fixture
def encoder():
    return ToyEncoder()


class LayeredEncoder(ToyEncoder):
    """Two layers, of which the model is given both."""

    layers = 2

    def encode(self, rows, length):
        z = super().encode(rows, length)
        return torch.cat([z, z.roll(1, -1) ** 2], -1)


@pytest.fixture
def make_layered():
    """make_layered() -> an encoder with two layers, and an encoder for each of them alone."""

    def alone(layer):
        encoder, layered = ToyEncoder(), LayeredEncoder()
        encoder.encode = lambda *args: layered.encode(*args)[..., layer * encoder.width :][..., : encoder.width]
        return encoder

    return lambda: (LayeredEncoder(), alone(0), alone(1))


@pytest.fixture(scope="session")
def comfy_host(tmp_path_factory):
    """A real ComfyUI in this process, on the CPU, with its folders in a temporary place."""
    path = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI"))
    if not (path / "folder_paths.py").is_file():
        pytest.fail(f"No ComfyUI in {path}; run 'python dev.py test', or set COMFYUI_PATH.")
    base = tmp_path_factory.mktemp("comfyui")
    argv, sys.argv = sys.argv, ["comfyui", "--cpu", "--base-directory", str(base)]
    sys.path.insert(0, str(path))
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sd
        import folder_paths
        import utils.extra_config  # noqa: F401 - before nodes, as in main.py: older ones bring another `utils` along

        import nodes
    finally:
        sys.argv = argv
    return SimpleNamespace(path=path, base=base, nodes=nodes, folder_paths=folder_paths)


@pytest.fixture(scope="session")
def pack(comfy_host):
    """The pack, loaded and registered as ComfyUI does it."""
    import asyncio

    name = str(ROOT).replace(".", "_x_")
    module = sys.modules.get(name) or load(name, ROOT / "__init__.py")  # the demo may have loaded it

    async def register():
        extension = await module.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    nodes = {node.define_schema().node_id: node for node in asyncio.run(register())}
    return SimpleNamespace(module=module, host=module.nodes.host, ops=module.trce_ops, nodes=nodes)


@pytest.fixture
def use_captions(pack, monkeypatch):
    """use_captions(*captions): everyday captions that nodes keep, every 20th of the pack's own if none are given."""

    def use(*captions):
        erase = pack.ops.closed_form.erase
        monkeypatch.setattr(erase, "BENIGN_CAPTIONS", captions or erase.BENIGN_CAPTIONS[::20])

    return use


@pytest.fixture
def few_captions(use_captions):
    """Nodes keep only some everyday captions; test_preserve.py tests what is done with them."""
    use_captions()


def fill(module, seed):
    """Give every parameter of a ComfyUI module, which come uninitialised, plausible random values."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 0:
                continue
            if "norm" in name and name.endswith("weight"):
                values = 1 + 0.1 * torch.randn(weight.shape, generator=noise)
            else:
                fan_in = weight[0].numel() if weight.ndim > 1 else 100
                values = torch.randn(weight.shape, generator=noise) / fan_in**0.5
            weight.copy_(values)
            weight.requires_grad_(False)  # older ComfyUI leaves it on, and computes in inference mode
    return module


@pytest.fixture(scope="session")
def fill_weights():
    return fill


@pytest.fixture(scope="session")
def make_model(comfy_host):
    """make_model(seed, dtype, config, options, width, channels) -> a MODEL; without options a small SD1.x."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    small = dict(
        image_size=32,
        in_channels=4,
        out_channels=4,
        num_res_blocks=[1, 1],
        channel_mult=(1, 2),
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        legacy=False,
    )

    def build(seed=0, dtype=torch.float32, config="SD15", options=None, width=32, channels=32):
        config = getattr(comfy.supported_models, config)(
            dict(options or small | dict(context_dim=width, model_channels=channels))
        )
        config.set_inference_dtype(dtype, torch.float32 if dtype != torch.float32 else None)
        config.custom_operations = comfy.ops.manual_cast
        cpu = torch.device("cpu")
        return comfy.model_patcher.ModelPatcher(fill(config.get_model({}, device=cpu), seed).eval(), cpu, cpu)

    return build


@pytest.fixture(scope="session")
def make_clip(comfy_host):
    """make_clip(seed, kind) -> a CLIP with the real tokenizer and small text encoders, 32 wide, G 48, T5 `width`."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base
    from comfy.text_encoders import cosmos, flux, hidream, pixart_t5, qwen_image, sd2_clip, sd3_clip, z_image

    class QwenImage(qwen_image.QwenImageTEModel):
        """ComfyUI's way of encoding for Qwen-Image, on a language model that has no eyes and so can be small."""

        def __init__(self, **options):
            comfy.sd1_clip.SD1ClipModel.__init__(self, name="qwen25_7b", clip_model=z_image.Qwen3_4BModel, **options)

    kinds = {
        "sd1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sd2": (sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
        "refiner": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLRefinerClipModel),
        "pixart": (pixart_t5.PixArtTokenizer, pixart_t5.pixart_te()),
        "cosmos": (cosmos.CosmosT5Tokenizer, cosmos.te()),  # gives 512 rows, zero where there is no text
        "flux": (flux.FluxTokenizer, flux.flux_clip()),
        "z-image": (z_image.ZImageTokenizer, z_image.te()),
        "qwen-image": (qwen_image.QwenImageTokenizer, QwenImage),
        "sd3": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip()),
        "sd3 with CLIP-L alone": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(clip_g=False, t5=False)),
        "hidream": (hidream.HiDreamTokenizer, hidream.hidream_clip()),
        "cascade": (comfy.sdxl_clip.StableCascadeTokenizer, comfy.sdxl_clip.StableCascadeClipModel),
    }
    small = dict(num_hidden_layers=3, hidden_size=32, num_attention_heads=2, intermediate_size=64)

    def build(seed=0, kind="sd1", dtype=torch.float32, width=32):
        sizes = {f"clip_{name}_model_config": small for name in "lh"}
        sizes["clip_g_model_config"] = small | dict(hidden_size=48, intermediate_size=96)
        sizes["t5xxl_model_config"] = dict(d_ff=64, d_kv=16, d_model=width, num_heads=2, num_layers=2)
        llm = small | dict(num_hidden_layers=4, num_key_value_heads=1)
        sizes |= dict.fromkeys(("qwen3_4b_model_config", "qwen25_7b_model_config"), llm)
        sizes["llama_model_config"] = llm | dict(hidden_size=96)
        target = comfy.supported_models_base.ClipTarget(*kinds[kind])
        clip = comfy.sd.CLIP(target, model_options={"dtype": dtype, **sizes})
        fill(clip.cond_stage_model, seed)
        return clip

    return build


@pytest.fixture
def quantised(comfy_host):
    """quantised(module, layers) -> the same module with layers whose names end so as fp8 and a scale.

    native: compute in eight bits, as ComfyUI does on cards that can.
    """

    def build(base, layers=("attn2.to_k", "attn2.to_v"), native=False):
        """The same module with those layers as fp8 and a scale, loaded as ComfyUI loads them."""
        import comfy.ops

        operations = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=not native)
        for name, module in list(base.named_modules()):
            if name.endswith(layers):
                out, width = module.weight.shape
                bias = {} if module.bias is None else {"bias": module.bias}
                layer = operations.Linear(width, out, bias=bool(bias), device="cpu", dtype=torch.float32)
                scale = module.weight.abs().max() / 448
                config = json.dumps({"format": "float8_e4m3fn"}).encode()
                layer.load_state_dict(
                    {
                        **bias,
                        "weight": (module.weight / scale).to(torch.float8_e4m3fn),
                        "weight_scale": scale.detach(),
                        "comfy_quant": torch.tensor(list(config), dtype=torch.uint8),
                    }
                )
                base.set_submodule(name, layer)
        return base

    return build


@pytest.fixture
def listen(pack, monkeypatch):
    """listen(callback): calls callback(node_id, text) in place of showing text on a node."""

    def start(callback):
        for name, module in list(sys.modules.items()):
            if name.startswith(pack.module.__name__) and hasattr(module, "show_text"):
                monkeypatch.setattr(module, "show_text", callback)

    return start


@pytest.fixture
def run(pack):
    """run(node_id, **inputs) -> the node's outputs, executed as ComfyUI does; widgets not named have their defaults."""

    def execute(node_id, **inputs):
        node = pack.nodes[node_id]
        defaults = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
        with torch.inference_mode():
            return node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**{**defaults, **inputs}).args

    return execute


@pytest.fixture
def trce_settings(run):
    """trce_settings(closed_form={...}, tuning={...}, ...) -> what TRCE Settings gives, with these knobs turned."""

    def build(closed_form=None, tuning=None, **others):
        groups = {"closed_form": closed_form, "tuning": tuning}
        custom = {name: {name: "custom", **knobs} for name, knobs in groups.items() if knobs is not None}
        return run("TRCESettings", **custom, **others)[0]

    return build


@pytest.fixture
def sample(comfy_host):
    """sample(model, positive, negative, seed) -> latents of 3 steps of the stock KSampler, at CFG 4.

    The prompts are embeddings, or whole CONDITIONINGs.
    """
    import comfy.model_management

    def draw(model, positive, negative, seed=1, shape=(2, 4, 8, 8), **options):
        latent = {"samples": torch.zeros(shape)}
        prompts = [[[p, options]] if torch.is_tensor(p) else p for p in (positive, negative)]
        with torch.inference_mode():
            return comfy_host.nodes.common_ksampler(model, seed, 3, 4.0, "euler", "normal", *prompts, latent)[0][
                "samples"
            ]

    yield draw
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def demo(comfy_host):
    """demo/, with demo/emoji and benchmarks/ on sys.path as when one of their scripts runs; forgotten afterwards."""
    folders = [ROOT / "demo", ROOT / "demo" / "emoji", ROOT / "benchmarks"]
    path, level = list(sys.path), logging.getLogger().level
    sys.path[:0] = map(str, folders)
    yield folders[0]
    sys.path[:] = path
    logging.getLogger().setLevel(level)
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").parent in folders:
            del sys.modules[name]


@pytest.fixture(scope="module")
def erasure(demo):
    """benchmarks/erasure.py, in this process, with the demo model loaded once."""
    return importlib.import_module("erasure")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A models folder of this process's own: the demo model is linked into it, what the templates load is copied."""
    ours, folder = Installation.from_environment().models, tmp_path_factory.mktemp("models")
    for path in ours.glob("*/*.safetensors"):
        copy = folder / path.parent.name / path.name
        copy.parent.mkdir(exist_ok=True)
        (os.link if os.stat(ours).st_dev == os.stat(folder).st_dev else shutil.copyfile)(path, copy)
    return folder


@pytest.fixture(scope="session")
def server(models):
    """A ComfyUI server with the pack and the demo model, driven over HTTP."""
    with Host(models=models) as host:
        yield host


@pytest.fixture
def deltas(server):
    """models/erased_deltas of the server; what a test adds goes away again."""
    folder = server.models / "erased_deltas"
    before = set(folder.rglob("*"))
    yield folder
    for path in set(folder.rglob("*")) - before:
        if path.is_file():
            path.unlink()
