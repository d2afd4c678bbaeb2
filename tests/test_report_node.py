"""The Erasure Report: figures of known changes, the sheet, and the node run in process on a small SD1.x model."""

import sys

import pytest
import torch

pytestmark = pytest.mark.usefixtures("few_captions")
CONCEPTS = "a gun -> an umbrella"
SMALL = dict(seed=3, seeds=2, steps=2, cfg=4.0, width=64, height=64, thumbnail=40)


class FakeVAE:
    """Three channels of a latent as colours; notes what it was given."""

    def __init__(self):
        self.latents = []

    def decode(self, latent):
        self.latents.append(latent.clone())
        return latent[:, :3].movedim(1, -1).sigmoid()


def bits(model):
    """The weights as they are without patches."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    return {key: weight.clone() for key, weight in model.model.state_dict().items()}


@pytest.fixture
def comparison(pack):
    return pack.ops.evaluation.comparison


@pytest.fixture
def report(run, make_clip):
    def execute(before, after, vae=None, **inputs):
        prompts = dict(concept_prompts="a gun\n\na pistol", kept_prompts="a dog")
        return run(
            "TRCEReport",
            before=before,
            after=after,
            clip=make_clip(),
            vae=vae or FakeVAE(),
            **{**prompts, **SMALL, **inputs},
        )

    yield execute
    import comfy.model_management

    comfy.model_management.unload_all_models()


@pytest.fixture
def erased(run, make_clip, trce_settings):
    def erase(model, strength=1.0):
        settings = trce_settings(closed_form=dict(templates=False))
        inputs = dict(concepts=CONCEPTS, keep="a dog", strength=strength, settings=settings)
        return run("TRCEErase", model=model, clip=make_clip(), **inputs)[0]

    return erase


def test_a_change_is_measured_in_units_of_what_the_prompt_does(comparison):
    """Noise predictions e = (x - denoised) / sigma; the erasure moves them by 1, the prompt by 2."""
    noise = torch.Generator().manual_seed(0)
    sigmas = [5.0, 1.0, 0.2]
    before = [torch.randn(1, 4, 3, 3, generator=noise) for _ in sigmas]
    after = [x + sigma for x, sigma in zip(before, sigmas)]
    negative = [x - 2 * sigma for x, sigma in zip(before, sigmas)]
    change, pull = comparison.squared_distances(before, after, negative, sigmas)
    assert (change, pull) == pytest.approx((1, 4), rel=1e-5)
    rows = [comparison.Change(comparison.CONCEPT, "a gun", 0, change, pull, 0.25)]
    assert comparison.share(rows) == pytest.approx(0.5)
    rows.append(comparison.Change(comparison.KEPT, "a dog", 0, 0.0001 * change, pull, 0.01))
    text = comparison.report_text(rows)
    assert "concept prompts: prediction 50%, picture 25.0% (1 picture)" in text
    assert "Concept prompts moved 100.0 times as far as kept ones." in text


def test_what_moved_and_what_stayed_make_one_figure(comparison):
    def text(*kept):  # shares of the prompt's own pull
        rows = [comparison.Change(comparison.CONCEPT, "a gun", 0, 0.5**2, 1, 0.25)]
        return comparison.report_text(
            rows + [comparison.Change(comparison.KEPT, "a dog", 0, k**2, 1, 0.01) for k in kept]
        )

    line = "Both in one figure: 62%. Concept prompts moved by 50%, and 80% of kept prompts stayed"
    assert line in text(0.2)  # 2 / (1 / 0.5 + 1 / 0.8)
    assert "Both in one figure: 0%." in text(1.5)  # nothing was kept
    assert "Both" not in text()


def test_the_sheet_has_every_picture_in_its_place(pack):
    sheet = sys.modules[f"{pack.module.__name__}.nodes.ui.contact_sheet"]
    colours = {
        (r, c, s): (0.2 + 0.3 * r, 0.1 + 0.4 * c, float(s)) for r in range(2) for c in range(2) for s in range(2)
    }
    picture = {place: torch.tensor(colour).expand(20, 10, 3) for place, colour in colours.items()}
    rows = [(f"prompt {r}", [(picture[r, c, 0], picture[r, c, 1]) for c in range(2)]) for r in range(2)]
    drawn = sheet.draw_sheet(rows, 40)
    assert drawn.shape[0] == 1 and drawn.shape[3] == 3
    centres = {}
    for place, colour in colours.items():
        same = ((drawn[0] - torch.tensor(colour)).abs() < 0.01).all(-1).nonzero().float()
        assert len(same) == 40 * 20
        centres[place] = same.mean(0).tolist()
    for (r, c, s), (y, x) in centres.items():
        for (r2, c2, s2), (y2, x2) in centres.items():
            assert (y < y2) if r < r2 else (y == y2 or r > r2)
            assert x < x2 if (c, s) < (c2, s2) else True


def test_the_erased_model_moves_and_both_models_stay(report, erased, make_model):
    model = make_model()
    after = erased(model)
    before, uuids = bits(model), (model.patches_uuid, after.patches_uuid)
    vae = FakeVAE()
    sheet, text = report(model, after, vae)
    assert sheet.ndim == 4 and 0 <= sheet.min() and sheet.max() <= 1
    assert len(vae.latents) == 3 * 2 * 2
    assert "concept prompts: prediction" in text and "(4 pictures)" in text
    assert "kept prompts: prediction" in text and "(2 pictures)" in text
    assert (model.patches_uuid, after.patches_uuid) == uuids
    assert all(torch.equal(weight, before[key]) for key, weight in bits(model).items())
    assert not model.patches and "sampler_post_cfg_function" not in model.model_options
    again, same = report(model, after)
    assert same == text and torch.equal(again, sheet)


def test_a_picture_is_what_ksampler_draws(report, erased, make_model, make_clip, comfy_host):
    model, clip, vae = make_model(), make_clip(), FakeVAE()
    after = erased(model)
    report(model, after, vae, concept_prompts="a gun", kept_prompts="", negative="ugly", seeds=1)
    with torch.inference_mode():
        told, against = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a gun", "ugly"))
        for drawn, one in zip(vae.latents, (model, after)):
            latent = {"samples": torch.zeros(1, 4, 8, 8)}
            expected = comfy_host.nodes.common_ksampler(one, 3, 2, 4.0, "euler", "normal", told, against, latent)
            torch.testing.assert_close(drawn, expected[0]["samples"], rtol=1e-4, atol=1e-4)


def test_a_model_that_did_not_change_moves_by_nothing(report, erased, make_model):
    model = make_model()
    _, text = report(model, erased(model, strength=0.0))
    assert "concept prompts: prediction 0%, picture 0.0%" in text
    assert "Kept prompts did not move at all." in text


def test_without_prompts_it_says_which_widgets(report, make_model):
    model = make_model()
    with pytest.raises(ValueError, match="'concept_prompts' and 'kept_prompts' have 0 lines"):
        report(model, model, concept_prompts=" \n", kept_prompts="")


@pytest.mark.parametrize("call", [1, 4])
def test_cancel_leaves_both_models_as_they_were(report, erased, make_model, call, monkeypatch):
    import comfy.model_management as mm

    model = make_model()
    after, before, calls = erased(model), bits(model), []
    forward = model.model.diffusion_model.forward

    def cancelling(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            raise mm.InterruptProcessingException
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model.diffusion_model, "forward", cancelling)
    with pytest.raises(mm.InterruptProcessingException):
        report(model, after)
    assert len(calls) == call
    mm.unload_all_models()
    assert all(torch.equal(weight, before[key]) for key, weight in bits(model).items())
    assert not model.patches and "sampler_post_cfg_function" not in model.model_options
