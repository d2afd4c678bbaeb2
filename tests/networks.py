"""ComfyUI's own diffusion classes at the smallest sizes they take: text of width 24, pooled vectors of width 20.

Several rows for a family where its classes differ in how they read the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

UNET = dict(
    image_size=32,
    in_channels=4,
    model_channels=32,
    out_channels=4,
    num_res_blocks=[1, 1],
    channel_mult=(1, 2),
    transformer_depth=[1, 1],
    transformer_depth_output=[1, 1, 1, 1],
    transformer_depth_middle=1,
    context_dim=24,
    use_spatial_transformer=True,
    use_linear_in_transformer=True,
    num_heads=-1,
    num_head_channels=16,
    legacy=False,
)
SDXL = UNET | dict(
    num_classes="sequential",
    adm_in_channels=20 + 1536,
    transformer_depth=[0, 2],
    transformer_depth_output=[0, 0, 2, 2],
    transformer_depth_middle=2,
)
X4 = UNET | dict(disable_self_attentions=[True, False], num_classes=1000)
MMDIT = dict(
    input_size=None,
    patch_size=2,
    in_channels=16,
    depth=2,
    num_blocks=2,
    adm_in_channels=20,
    context_embedder_config=dict(target="torch.nn.Linear", params=dict(in_features=24, out_features=128)),
    pos_embed_max_size=16,
    num_patches=256,
    qk_norm="rms",
    x_block_self_attn_layers=[0],
)
FLUX = dict(
    in_channels=16,
    out_channels=16,
    vec_in_dim=20,
    context_in_dim=24,
    hidden_size=64,
    mlp_ratio=2.0,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=[8, 12, 12],
    theta=10000,
    patch_size=2,
    qkv_bias=True,
    guidance_embed=True,
    txt_ids_dims=[],
)
FLUX2 = dict(vec_in_dim=None, global_modulation=True, mlp_silu_act=True, qkv_bias=False, ops_bias=False)
FLUX2 = FLUX | FLUX2 | dict(txt_ids_dims=[3], axes_dim=[8, 8, 8, 8], patch_size=1)
OVIS = FLUX | dict(vec_in_dim=None, guidance_embed=False, yak_mlp=True, txt_norm=True, txt_ids_dims=[1, 2])
CHROMA = {key: value for key, value in FLUX.items() if key != "guidance_embed"}
CHROMA |= dict(in_channels=64, out_channels=64, in_dim=64, out_dim=64, hidden_dim=32, n_layers=1, vec_in_dim=None)
RADIANCE = CHROMA | dict(
    in_channels=3,
    out_channels=3,
    patch_size=4,
    nerf_hidden_size=16,
    nerf_mlp_ratio=2,
    nerf_depth=1,
    nerf_max_freqs=4,
    nerf_tile_size=0,
    nerf_final_head_type="conv",
    nerf_embedder_dtype=torch.float32,
    use_x0=False,
    use_sequential_txt_ids=False,
)
HIDREAM = dict(
    patch_size=2,
    in_channels=16,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=32,
    num_attention_heads=2,
    caption_channels=[24, 28],
    text_emb_dim=20,
    num_routed_experts=2,
    num_activated_experts=1,
    axes_dims_rope=(8, 12, 12),
    max_resolution=(16, 16),
    llama_layers=[0, 1],
)
COSMOS = dict(
    max_img_h=32,
    max_img_w=32,
    max_frames=8,
    in_channels=16,
    out_channels=16,
    patch_spatial=2,
    patch_temporal=1,
    model_channels=64,
    num_blocks=1,
    num_heads=2,
    crossattn_emb_channels=24,
    pos_emb_cls="rope3d",
    use_adaln_lora=True,
    adaln_lora_dim=16,
)
COSMOS1 = COSMOS | dict(
    block_x_format="THWBD",
    affline_emb_norm=True,
    extra_per_block_abs_pos_emb=True,
    extra_per_block_abs_pos_emb_type="learnable",
)
WAN = dict(
    model_type="t2v",
    patch_size=(1, 2, 2),
    text_len=16,
    in_dim=16,
    dim=64,
    ffn_dim=64,
    freq_dim=32,
    text_dim=24,
    out_dim=16,
    num_heads=2,
    num_layers=1,
)
HUNYUAN = FLUX | dict(
    theta=256,
    patch_size=[1, 2, 2],
    byt5=False,
    meanflow=False,
    use_cond_type_embedding=False,
    vision_in_dim=None,
    meanflow_sum=False,
)
del HUNYUAN["txt_ids_dims"]
HUNYUAN_IMAGE = HUNYUAN | dict(vec_in_dim=None, byt5=True, patch_size=[1, 1], axes_dim=[16, 16])
MOCHI = dict(
    patch_size=2,
    in_channels=12,
    hidden_size_x=64,
    hidden_size_y=48,
    mlp_ratio_x=192,
    mlp_ratio_y=128,
    depth=2,
    num_heads=2,
    use_t5=True,
    t5_feat_dim=24,
    t5_token_length=10,
    learn_sigma=False,
    qk_norm=True,
    qkv_bias=False,
    out_bias=True,
    timestep_scale=1000.0,
)
LUMINA = dict(
    patch_size=2,
    in_channels=16,
    dim=64,
    n_layers=1,
    n_refiner_layers=1,
    n_heads=2,
    n_kv_heads=2,
    multiple_of=8,
    ffn_dim_multiplier=1.0,
    qk_norm=True,
    cap_feat_dim=24,
    axes_dims=[8, 12, 12],
    axes_lens=[300, 512, 512],
)
ZIMAGE = LUMINA | dict(dim=256, n_heads=8, n_kv_heads=8, z_image_modulation=True)
ZIMAGE |= dict(time_scale=1000.0, pad_tokens_multiple=32)
JOINT = dict(num_layers=1, attention_head_dim=32, num_attention_heads=2, axes_dims_rope=(8, 12, 12))
QWEN = JOINT | dict(patch_size=2, in_channels=64, out_channels=16, joint_attention_dim=24)
MAGE = JOINT | dict(in_channels=16, out_channels=16, joint_attention_dim=24)
LENS = JOINT | dict(patch_size=1, in_channels=16, out_channels=16, enc_hidden_dim=12, selected_layer_index=(0, 1))
OMNIGEN = dict(
    patch_size=2,
    in_channels=16,
    hidden_size=64,
    num_layers=1,
    num_refiner_layers=1,
    num_attention_heads=2,
    num_kv_heads=1,
    multiple_of=8,
    axes_dim_rope=(8, 12, 12),
    axes_lens=(64, 64, 64),
)
CASCADE_C = dict(c_in=16, c_out=16, c_r=16, c_cond=32, c_hidden=[32, 32], nhead=[2, 2], c_clip_text=24, c_clip_img=12)
CASCADE_C |= dict(c_clip_text_pooled=20, blocks=[[1, 1], [1, 1]], block_repeat=[[1, 1], [1, 1]])
CASCADE_B = dict(c_in=4, c_out=4, c_r=16, patch_size=2, c_cond=32, c_hidden=[32] * 4, nhead=[-1, -1, 2, 2], c_clip=20)
CASCADE_B |= dict(c_effnet=16, blocks=[[1] * 4] * 2, block_repeat=[[1] * 4] * 2)
ERNIE = dict(hidden_size=64, num_attention_heads=2, num_layers=1, ffn_hidden_size=64, in_channels=16, out_channels=16)
ERNIE |= dict(patch_size=1, text_in_dim=24, rope_axes_dim=(8, 12, 12))
KANDINSKY = dict(in_visual_dim=16, out_visual_dim=16, in_text_dim=24, in_text_dim2=20, time_dim=32, model_dim=64)
KANDINSKY |= dict(ff_dim=64, visual_embed_dim=64, num_text_blocks=1, num_visual_blocks=1, axes_dims=(8, 12, 12))
COGVIDEO = dict(num_attention_heads=2, attention_head_dim=64, in_channels=16, out_channels=16, time_embed_dim=32)
COGVIDEO |= dict(text_embed_dim=24, num_layers=1, sample_width=8, sample_height=8, sample_frames=9)
COGVIDEO |= dict(max_text_seq_length=10, use_rotary_positional_embeddings=True)
JOY = dict(in_channels=16, hidden_size=64, num_attention_heads=2, text_dim=24, mlp_width_ratio=2.0, num_layers=1)
JOY |= dict(rope_dim_list=[8, 12, 12], theta=10000)
PIXELDIT = dict(num_groups=2, hidden_size=64, pixel_hidden_size=8, pixel_attn_hidden_size=32, pixel_num_groups=2)
PIXELDIT |= dict(patch_depth=1, pixel_depth=1, patch_size=4, txt_embed_dim=24, txt_max_length=16)
IDEOGRAM = dict(in_channels=16, num_layers=1, num_attention_heads=2, attention_head_dim=48, intermediate_size=64)
IDEOGRAM |= dict(adaln_dim=32, llm_features_dim=24, mrope_section=(8, 8, 8))
PIXART = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=1, num_heads=4, caption_channels=24)
PIXART |= dict(model_max_length=10, micro_condition=True, pe_interpolation=1.0)
AURA = dict(in_channels=4, out_channels=4, patch_size=2, dim=32, n_layers=2, n_double_layers=1, n_heads=2)
AURA |= dict(global_conddim=32, cond_seq_dim=24, max_seq=256)
LTX = dict(in_channels=16, cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2, caption_channels=24)
LTX |= dict(num_layers=1)
MINIMAX = dict(hidden_size=64, num_layers=0, token_refiner_num_layers=1, num_attention_heads=2, attention_head_dim=32)
MINIMAX |= dict(ffn_hidden_size=64, text_dim=24, time_embed_hidden_size=32, time_embed_dim=32)

Forward = Callable[..., torch.Tensor]


def plain(m, x, t, context=None, pooled=None):
    return m(x, t, context, y=pooled) if pooled is not None else m(x, t, context)


def upscaler(m, x, t, context):
    return m(x, t, context=context, y=torch.tensor([20, 30]))


def sized(m, x, t, context, pooled):
    sizes = torch.ones(2, m.label_emb[0][0].weight.shape[1] - 20)  # behind the pooled vector
    return m(x, t, context=context, y=torch.cat([pooled, sizes], 1))


def vace(m, x, t, context):
    return m(x, t, context, vace_context=torch.ones(2, 1, 8, 2, 8, 8), vace_strength=[1.0])


def mochi(m, x, t, context):
    return m(x, t, context, torch.ones(2, 10, dtype=torch.bool))


def guided(m, x, t, context, pooled=None):
    return m(x, t, context, y=pooled, guidance=torch.full((2,), 3.5))


def masked(m, x, t, context, pooled=None):
    return m(x, t, context, None) if pooled is None else m(x, t, context, pooled, None)


def counted(m, x, t, context, pooled=None):
    return m(x, t, context, 10) if pooled is None else m(x, t, context, 10, clip_text_pooled=pooled)


def hidream(m, x, t, context, pooled, llama):
    return m(x, t, y=pooled, context=context, encoder_hidden_states_llama3=llama)


def cascade_c(m, x, t, context, pooled):
    return m(
        x,
        t,
        clip_text=context,
        clip_text_pooled=pooled,
        clip_img=torch.ones(2, 12),
        sca=torch.zeros(2),
        crp=torch.zeros(2),
    )


def cascade_b(m, x, t, pooled):
    return m(x, t, effnet=torch.zeros(2, 16, 4, 4), clip=pooled, sca=torch.zeros(2))


def anima(m, x, t, context):
    return m(x, t, context, t5xxl_ids=torch.arange(12).view(2, 6))


def minimax(m, x, t, context):
    return m.preprocess_text_embeds(context[:1])


def with_positions(m, operations):
    m.pos_embed.normal_(generator=torch.Generator().manual_seed(3))


def with_adapter(m, operations):
    from comfy.ldm.anima.model import LLMAdapter

    m.llm_adapter = LLMAdapter(24, 20, 32, num_layers=2, num_heads=2, operations=operations)


CONTEXT = dict(context=(2, 10, 24))
BOTH = CONTEXT | dict(pooled=(2, 20))
IMAGE, VIDEO, PIXELS = (2, 16, 8, 8), (2, 16, 2, 8, 8), (2, 3, 16, 16)


@dataclass(frozen=True)
class Network:
    """A small diffusion model and how it is called."""

    config: str  # class of comfy.supported_models
    path: str  # module below comfy.ldm, and class
    options: dict
    x: tuple[int, ...] = IMAGE
    text: dict[str, tuple[int, ...]] = field(default_factory=lambda: CONTEXT)  # shapes by kind
    forward: Forward = plain
    finish: Callable = lambda m, operations: None


OPENAI, HY = "modules.diffusionmodules.openaimodel.UNetModel", "hunyuan_video.model.HunyuanVideo"
SMALL = (2, 4, 8, 8)

NETWORKS = {
    "sd1": Network(
        "SD15", OPENAI, UNET | dict(num_heads=2, num_head_channels=-1, use_linear_in_transformer=False), SMALL
    ),
    "sd2": Network("SD20", OPENAI, UNET, SMALL),
    "upscaler": Network("SD_X4Upscaler", OPENAI, X4, SMALL, forward=upscaler),
    "sdxl": Network("SDXL", OPENAI, SDXL, SMALL, BOTH, sized),
    "ssd1b": Network("SSD1B", OPENAI, SDXL | dict(transformer_depth_middle=-2), SMALL, BOTH, sized),
    "refiner": Network("SDXLRefiner", OPENAI, SDXL | dict(adm_in_channels=20 + 1280), SMALL, BOTH, sized),
    "sd3": Network(
        "SD3", "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper", MMDIT, IMAGE, BOTH, finish=with_positions
    ),
    "flux": Network("Flux", "flux.model.Flux", FLUX, IMAGE, BOTH, guided),
    "flux2": Network("Flux2", "flux.model.Flux", FLUX2, IMAGE, CONTEXT, guided),
    "ovis": Network("Flux", "flux.model.Flux", OVIS),
    "longcat": Network("LongCatImage", "flux.model.Flux", FLUX | dict(vec_in_dim=None, guidance_embed=False)),
    "chroma": Network("Chroma", "chroma.model.Chroma", CHROMA, forward=guided),
    "radiance": Network("ChromaRadiance", "chroma_radiance.model.ChromaRadiance", RADIANCE, PIXELS, forward=guided),
    "auraflow": Network("AuraFlow", "aura.mmdit.MMDiT", AURA, SMALL),
    "pixart": Network("PixArtSigma", "pixart.pixartms.PixArtMS", PIXART, (2, 4, 48, 48)),
    "hidream": Network(
        "HiDream",
        "hidream.model.HiDreamImageTransformer2DModel",
        HIDREAM,
        text=BOTH | dict(llama=(2, 3, 10, 28)),
        forward=hidream,
    ),
    "cosmos": Network("CosmosI2V", "cosmos.model.GeneralDIT", COSMOS1, VIDEO, forward=masked),
    "cosmos-predict2": Network("CosmosT2IPredict2", "cosmos.predict2.MiniTrainDIT", COSMOS, VIDEO),
    "anima": Network(
        "Anima",
        "anima.model.Anima",
        COSMOS | dict(crossattn_emb_channels=20),
        VIDEO,
        forward=anima,
        finish=with_adapter,
    ),
    "wan": Network("WAN21_T2V", "wan.model.WanModel", WAN, VIDEO),
    "vace": Network(
        "WAN21_Vace",
        "wan.model.VaceWanModel",
        WAN | dict(model_type="vace", vace_layers=1, vace_in_dim=8),
        VIDEO,
        forward=vace,
    ),
    "hunyuan-video": Network("HunyuanVideo", HY, HUNYUAN, VIDEO, BOTH, guided),
    "hunyuan-video-1.5": Network(
        "HunyuanVideo15", HY, HUNYUAN | dict(vec_in_dim=None, byt5=True), VIDEO, forward=guided
    ),
    "hunyuan-image": Network("HunyuanImage21", HY, HUNYUAN_IMAGE, forward=guided),
    "ltxv": Network("LTXV", "lightricks.model.LTXVModel", LTX, (2, 16, 2, 4, 4), forward=masked),
    "mochi": Network(
        "GenmoMochi", "genmo.joint_model.asymm_models_joint.AsymmDiTJoint", MOCHI, (2, 12, 2, 8, 8), forward=mochi
    ),
    "ernie-image": Network("ErnieImage", "ernie.model.ErnieImageModel", ERNIE),
    "kandinsky5": Network("Kandinsky5Image", "kandinsky5.model.Kandinsky5", KANDINSKY, VIDEO, BOTH),
    "cascade": Network("Stable_Cascade_C", "cascade.stage_c.StageC", CASCADE_C, text=BOTH, forward=cascade_c),
    "cascade-b": Network(
        "Stable_Cascade_B", "cascade.stage_b.StageB", CASCADE_B, (2, 4, 32, 32), dict(pooled=(2, 1, 20)), cascade_b
    ),
    "cogvideox": Network("CogVideoX_I2V", "cogvideo.model.CogVideoXTransformer3DModel", COGVIDEO, VIDEO),
    "joyimage": Network("JoyImage", "joyimage.model.JoyImageTransformer3DModel", JOY, VIDEO),
    "pixeldit": Network("PixelDiTT2I", "pixeldit.model.PixDiT_T2I", PIXELDIT, PIXELS),
    "minimax-h3": Network("MiniMaxH3", "minimax.model.MiniMaxH3Model", MINIMAX, forward=minimax),
    "lumina2": Network("Lumina2", "lumina.model.NextDiT", LUMINA, forward=counted),
    "newbie": Network("Lumina2", "lumina.model.NextDiT", LUMINA | dict(clip_text_dim=20), IMAGE, BOTH, counted),
    "z-image": Network("ZImage", "lumina.model.NextDiT", ZIMAGE, forward=counted),
    "qwen-image": Network("QwenImage", "qwen_image.model.QwenImageTransformer2DModel", QWEN, (2, 16, 1, 8, 8)),
    "mageflow": Network("MageFlow", "mage_flow.model.MageFlowTransformer2DModel", MAGE),
    "omnigen2": Network(
        "Omnigen2",
        "omnigen.omnigen2.OmniGen2Transformer2DModel",
        OMNIGEN | dict(text_feat_dim=24, timestep_scale=1000.0),
        forward=counted,
    ),
    "boogu": Network(
        "Boogu",
        "boogu.model.BooguTransformer2DModel",
        OMNIGEN | dict(instruction_feat_dim=24, num_double_stream_layers=1),
        forward=counted,
    ),
    "ideogram4": Network("Ideogram4", "ideogram4.model.Ideogram4Transformer2DModel", IDEOGRAM),
    "lens": Network("Lens", "lens.model.LensTransformer2DModel", LENS),
}
