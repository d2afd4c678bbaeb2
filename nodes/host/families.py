"""Which weights read the text, one row per model family, and how the family is tuned.

A row names the weights that are the first to multiply the text: the sequence of token embeddings ("context") and, in
some families, the pooled vector. On these, and on no others, W' = W T is the same as T on the text. Families that
normalise the text first get a map after that norm. Families without such weights get the map on the conditioning.

The width does not identify them: Anima, Mochi, LTX and others have weights of the same width further in.
tests/test_families.py builds every family's own class and finds its readers by what they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .architectures import (
    AURA,
    COGVIDEO,
    CROSS_KV_LINEAR,
    CROSS_PROJ,
    DIFFUSERS_JOINT,
    DOUBLE_STREAM,
    MMDIT,
    SINGLE_STREAM,
    UNET,
    WAN,
)


@dataclass(frozen=True)
class Reader:
    """The weights that read one kind of text, by their names within the diffusion model."""

    modules: str  # regular expression for whole names
    norm: str = ""  # the same for the RMSNorms that this text passes first, one for each of its equal parts
    pick: slice = field(default_factory=lambda: slice(None))  # of the modules that match, in the model's order
    tail: int = 0  # columns after the text's own, which read something else


@dataclass(frozen=True)
class Family:
    """One row. Models of a family share their kind of text encoder, so that a delta fits all of them."""

    name: str
    configs: tuple[str, ...]  # classes of comfy.supported_models; their subclasses count too, unless they have a row
    readers: Mapping[str, Reader] = field(default_factory=dict)  # by kind of text: context, pooled, llama
    has: str = ""  # the row is for models with this module
    conditioning: bool = False  # the map goes on the conditioning
    clip_rows: bool = False  # CLIP's embeddings are rows among those of T5, padded with zeros
    sequence: str = ""  # the encoder it reads, if the CLIP input has several besides CLIPs
    leaks: str = ""  # text that no map reaches
    # For families that can be tuned
    trained: Mapping[str, str] = field(default_factory=dict)  # sets of projections, see architectures.py
    blocks: str = ""  # regular expression for the modules that are computed again in the backward pass
    resolution: int = 0  # side of the pictures it draws, in pixels
    v_resolution: int = 0  # the same with v-prediction, if it differs
    cfg: float = 0.0  # guidance that it is sampled with; 0 for that of the settings
    steps: int = 0  # of sampling; 0 for those of the settings
    untuned: str = ""  # why it cannot be tuned


def _sdxl_pooled(numbers: int) -> Reader:
    """The pooled vector, then sizes (and a score for the refiner) of 256 columns each."""
    return Reader(r"label_emb\.0\.0", tail=256 * numbers)


CROSS_ATTENTION = Reader(r".*\.transformer_blocks\.\d+\.attn2\.to_[kv]")
FLUX_POOLED = Reader(r"vector_in\.in_layer")
FLUX_TEXT = {"context": Reader(r"txt_in"), "pooled": FLUX_POOLED}
HUNYUAN = Reader(r"txt_in\.(input_embedder|c_embedder\.in_layer)")  # the second reads the mean of the tokens
BYT5 = "words in quotation marks, which also go through ByT5"
TXT_NORM = {"context": Reader(r"txt_in", norm=r"txt_norm")}
LUMINA = Reader(r"cap_embedder\.1", norm=r"cap_embedder\.0")
OMNIGEN = Reader(r"time_caption_embed\.caption_embedder\.1", norm=r"time_caption_embed\.caption_embedder\.0")
SD3_POOLED = Reader(r"y_embedder\.mlp\.0")
HIDREAM = r"caption_projection\.\d+\.linear"  # one per layer of Llama, then one for T5

PIXELS = "draws pixels and not latents"

FAMILIES = (
    Family("sd1", ("SD15",), {"context": CROSS_ATTENTION}, **UNET, resolution=512),
    Family("sd2", ("SD20",), {"context": CROSS_ATTENTION}, **UNET, resolution=512, v_resolution=768),
    Family("sdxl", ("SDXL",), {"context": CROSS_ATTENTION, "pooled": _sdxl_pooled(6)}, **UNET, resolution=1024),
    Family("sdxl-refiner", ("SDXLRefiner",), {"context": CROSS_ATTENTION, "pooled": _sdxl_pooled(5)}),
    Family("sd3", ("SD3",), {"pooled": SD3_POOLED}, has="context_processor", conditioning=True, clip_rows=True),
    Family(
        "sd3",
        ("SD3",),
        {"context": Reader(r"context_embedder"), "pooled": SD3_POOLED},
        clip_rows=True,
        **MMDIT,
        resolution=1024,
    ),
    Family("ovis", ("Flux",), TXT_NORM, has="txt_norm"),
    # Distilled: guidance is an input of the network, or built into its weights
    Family("flux", ("Flux",), FLUX_TEXT, **DOUBLE_STREAM, resolution=1024, cfg=1.0),
    Family("flux", ("FluxSchnell",), FLUX_TEXT, **DOUBLE_STREAM, resolution=1024, cfg=1.0, steps=4),
    Family("flux2", ("Flux2",), {"context": Reader(r"txt_in")}, **DOUBLE_STREAM, resolution=1024, cfg=1.0),
    Family("longcat-image", ("LongCatImage",), {"context": Reader(r"txt_in")}),
    Family("chroma", ("ChromaRadiance",), {"context": Reader(r"txt_in")}, untuned=PIXELS),
    Family("chroma", ("Chroma",), {"context": Reader(r"txt_in")}, **DOUBLE_STREAM, resolution=1024),
    Family("auraflow", ("AuraFlow",), {"context": Reader(r"cond_seq_linear")}, **AURA, resolution=1024),
    Family(
        "pixart",
        ("PixArtAlpha", "PixArtSigma"),
        {"context": Reader(r"y_embedder\.y_proj\.fc1")},
        **CROSS_KV_LINEAR,
        resolution=1024,
    ),
    Family(
        "hidream",
        ("HiDream",),
        {
            "context": Reader(HIDREAM, pick=slice(-1, None)),
            "llama": Reader(HIDREAM, pick=slice(-1)),
            "pooled": Reader(r"p_embedder\.pooled_embedder\.linear_1"),
        },
        sequence="t5xxl",
        untuned="reads its text from several encoders in several places",
    ),
    # Only the middle one of a block's three layers is cross-attention.
    Family("cosmos", ("CosmosT2V",), {"context": Reader(r"blocks\.block\d+\.blocks\.1\.block\.attn\.to_[kv]\.0")}),
    Family(
        "cosmos-predict2",
        ("CosmosT2IPredict2",),
        {"context": Reader(r"blocks\.\d+\.cross_attn\.[kv]_proj")},
        **CROSS_PROJ,
        resolution=1024,
    ),
    Family(
        "anima",
        ("Anima",),
        {"context": Reader(r"llm_adapter\.blocks\.\d+\.cross_attn\.[kv]_proj")},
        sequence="qwen3_06b",
        leaks="the T5 token ids that go into its adapter",
        untuned="reads token ids beside the text",
    ),
    Family("wan", ("WAN21_T2V", "WAN22_T2V"), {"context": Reader(r"text_embedding\.0")}, **WAN, resolution=512),
    Family(
        "hunyuan-video",
        ("HunyuanVideo",),
        {"context": HUNYUAN, "pooled": FLUX_POOLED},
        **DOUBLE_STREAM,
        resolution=512,
        cfg=1.0,
    ),
    Family("hunyuan-video-1.5", ("HunyuanVideo15", "HunyuanVideo15_SR_Distilled"), {"context": HUNYUAN}, leaks=BYT5),
    Family("hunyuan-image", ("HunyuanImage21", "HunyuanImage21Refiner"), {"context": HUNYUAN}, leaks=BYT5),
    Family("ltxv", ("LTXV",), {"context": Reader(r"caption_projection\.linear_1")}, untuned="masks its padding"),
    Family("mochi", ("GenmoMochi",), {"context": Reader(r"t5_yproj|t5_y_embedder\.to_(kv|q)")}),
    Family("ernie-image", ("ErnieImage",), {"context": Reader(r"text_proj")}),
    Family(
        "kandinsky5",
        ("Kandinsky5",),
        {"context": Reader(r"text_embeddings\.in_layer"), "pooled": Reader(r"pooled_text_embeddings\.in_layer")},
    ),
    Family(
        "cascade",
        ("Stable_Cascade_C",),
        {"context": Reader(r"clip_txt_mapper"), "pooled": Reader(r"clip_txt_pooled_mapper")},
    ),
    Family("cascade", ("Stable_Cascade_B",), {"pooled": Reader(r"clip_mapper")}),
    Family("cogvideox", ("CogVideoX_T2V",), {"context": Reader(r"patch_embed\.text_proj")}, **COGVIDEO, resolution=480),
    Family("joyimage", ("JoyImage",), {"context": Reader(r"condition_embedder\.text_embedder\.linear_1")}),
    Family("pixeldit", ("PixelDiTT2I",), {"context": Reader(r"y_embedder\.proj")}),
    Family("minimax-h3", ("MiniMaxH3",), {"context": Reader(r"condition_proj")}),
    # Read the text after a norm
    Family(
        "newbie",
        ("Lumina2",),
        {"context": LUMINA, "pooled": Reader(r"clip_text_pooled_proj\.1", norm=r"clip_text_pooled_proj\.0")},
        has="clip_text_pooled_proj",
        sequence="gemma",
    ),
    Family("lumina2", ("Lumina2",), {"context": LUMINA}, **SINGLE_STREAM, resolution=1024),
    Family("z-image", ("ZImagePixelSpace",), {"context": LUMINA}, untuned=PIXELS),
    Family("z-image", ("ZImage",), {"context": LUMINA}, **SINGLE_STREAM, resolution=1024, cfg=1.0, steps=8),
    Family("qwen-image", ("QwenImage",), TXT_NORM, **DIFFUSERS_JOINT, resolution=1024),
    Family("mageflow", ("MageFlow",), TXT_NORM),
    Family("omnigen2", ("Omnigen2",), {"context": OMNIGEN}),
    Family("boogu", ("Boogu",), {"context": OMNIGEN}),
    Family("ideogram4", ("Ideogram4",), {"context": Reader(r"llm_cond_proj", norm=r"llm_cond_norm")}),
    Family("lens", ("Lens",), {"context": Reader(r"txt_in", norm=r"txt_norm(\.\d+)?")}),
    # On the conditioning
    Family("krea2", ("Krea2",), conditioning=True),
    Family("ltx2", ("LTXAV",), conditioning=True),
)


def family_of(config: object, modules: Iterable[str]) -> Family | None:
    """The row for a model: by the class of its comfy.supported_models config, then by the modules that it has."""
    modules = set(modules)
    for kind in type(config).__mro__:
        rows = [row for row in FAMILIES if kind.__name__ in row.configs]
        if rows:
            return next(row for row in rows if not row.has or row.has in modules)
    return None


def tuned_in_words() -> str:
    """The names of the families that can be tuned, for messages."""
    return ", ".join(dict.fromkeys(row.name for row in FAMILIES if row.trained))


def families_in_words() -> str:
    """The names of all families, for messages."""
    return ", ".join(dict.fromkeys(row.name for row in FAMILIES))
