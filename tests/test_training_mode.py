"""What ComfyUI does with weights to save memory and time, while gradients are needed."""

import pytest
import torch

K = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
Q = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q"
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "net.2", "proj")


@pytest.fixture
def gradient(pack):
    """gradient(model, meanwhile) -> of one weight, by all that MODEL predicts. meanwhile: called while it is open."""

    def compute(model, meanwhile=lambda: None):
        texts = pack.ops.tuning.text_batch.Texts(torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1)))
        with torch.inference_mode(), pack.host.denoiser.open_denoiser(model, 64) as denoise:
            meanwhile()
            texts = texts.each(torch.Tensor.clone)
            x = denoise.noise(1, torch.Generator().manual_seed(2), torch.tensor(5.0))
            W = denoise.weights[K].float().clone().requires_grad_()
            denoise(x, torch.tensor([5.0]), texts, {K: W}).square().sum().backward()
            return W.grad.clone()

    return compute


@pytest.mark.parametrize("native", [False, True])
def test_weights_of_eight_bits_have_gradients_on_cards_that_compute_in_eight_bits(
    gradient, make_model, quantised, native
):
    with torch.inference_mode():
        model, twin = make_model(), make_model()
        quantised(model.model, LAYERS, native)
        for key, W in model.model.named_parameters():
            if type(W.data) is not torch.Tensor:
                twin.model.get_parameter(key).data.copy_(W.data.dequantize())
    found, expected = gradient(model), gradient(twin)
    assert (found - expected).norm() < 1e-2 * expected.norm()
    layers = [layer for layer in model.model.modules() if hasattr(layer, "_full_precision_mm")]
    assert layers and all(layer._full_precision_mm is not native for layer in layers)


def test_quantised_weights_can_be_unloaded_after_a_probe(comfy_host, pack, make_model, make_clip, quantised):
    import comfy.model_management

    with torch.inference_mode():
        model = make_model()
        quantised(model.model, LAYERS)
        with pack.host.soft_prompts.open_encoder(make_clip(), False), pack.host.denoiser.open_denoiser(model, 64):
            pass
        for _ in range(2):
            comfy.model_management.load_models_gpu([model.clone()])
            comfy.model_management.free_memory(1e32, torch.device("cpu"))


def test_eight_bit_products_give_the_same_prediction_with_and_without_a_gradient(pack, make_model):
    """`fp8_e4m3fn_fast` of Load Diffusion Model computes otherwise as soon as a gradient is needed."""
    import comfy.ops

    model = make_model()
    with torch.inference_mode():
        for layer in model.model.modules():
            if isinstance(layer, comfy.ops.manual_cast.Linear):
                layer.__class__ = comfy.ops.fp8_ops.Linear
                layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
        texts = pack.ops.tuning.text_batch.Texts(torch.randn(1, 77, 32))
        with pack.host.denoiser.open_denoiser(model, 64) as denoise:
            texts, x = texts.each(torch.Tensor.clone), 5 * torch.randn(1, *denoise.shape)
            W = denoise.weights[K].float().clone().requires_grad_()
            learned = denoise(x, torch.tensor([5.0]), texts, {K: W})
            with torch.no_grad():
                known = denoise(x, torch.tensor([5.0]), texts, {K: W.detach()})
            learned.square().sum().backward()
    assert torch.equal(learned, known) and W.grad.any()
    assert not any("forward_comfy_cast_weights" in vars(layer) for layer in model.model.modules())


def test_offloaded_weights_come_without_the_buffer_that_layers_share(comfy_host, gradient, make_model, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "NUM_STREAMS", 2)
    streams = []
    gradient(make_model(), lambda: streams.append(comfy.model_management.NUM_STREAMS))
    assert streams == [0] and comfy.model_management.NUM_STREAMS == 2
    with pytest.raises(KeyboardInterrupt):
        gradient(make_model(), lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert comfy.model_management.NUM_STREAMS == 2 and not comfy.model_management.in_training


def test_a_lora_in_bypass_mode_takes_no_part(comfy_host, gradient, make_model):
    """It adds to the output of layers, like hooks of other nodes."""
    import comfy.sd

    with torch.inference_mode():
        model = make_model()
        out, width = model.model.get_parameter(f"{Q}.weight").shape
        lora = {f"{Q}.lora_up.weight": torch.randn(out, 2), f"{Q}.lora_down.weight": torch.randn(2, width)}
        bypassed, _ = comfy.sd.load_bypass_lora_for_models(model, None, lora, 1.0, 0.0)
    assert bypassed.injections and torch.equal(gradient(bypassed), gradient(model)) and bypassed.injections
