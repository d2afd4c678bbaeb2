"""Erase from Pictures, run in process as ComfyUI runs it, on a small SD1.x model."""

from contextlib import contextmanager

import pytest
import torch


@pytest.fixture(autouse=True)
def small(pack, monkeypatch, few_captions, tmp_path):
    for module in (pack.ops.attacks.evidence, pack.ops.attacks.inversion):
        monkeypatch.setattr(module, "LEVELS", 2)
    monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(tmp_path))


@pytest.fixture(scope="module")
def stock(make_model, make_clip):
    with torch.inference_mode():
        return make_model(), make_clip()


@pytest.fixture
def erase(run, stock, trce_settings):
    model, clip = stock
    latents = {"samples": torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))}
    tuning = dict(projections="cross", steps=2, trajectories=2, batch=1)

    def execute(**inputs):
        given = dict(
            model=model,
            clip=clip,
            pictures=latents,
            keep="a dog",
            starts=2,
            steps=3,
            safe="a pencil",
            initial_word="cat, dog",
        )
        settings = trce_settings(closed_form=dict(templates=False), tuning=tuning, resolution=64)
        return run("TRCEEraseFromPictures", **{**given, "settings": settings, **inputs})

    return execute


def states(stock):
    return [part.state_dict() for part in (stock[0].model, stock[1].cond_stage_model)]


@pytest.mark.parametrize("mode", ["closed form", "tuned"])
def test_the_words_of_the_pictures_are_erased_and_nothing_else_changes(pack, stock, erase, mode):
    before = [{key: weight.clone() for key, weight in state.items()} for state in states(stock)]
    erased, delta, report, _ = erase(mode=mode)
    assert [(pair.concept, pair.safe) for pair in delta.info.concepts] == [
        ("word 1 of the pictures", "a pencil"),
        ("word 2 of the pictures", "a pencil"),
    ]
    assert "Learned 2 words from 3 pictures" in report and "word 2 of the pictures" in report and "*" not in report
    assert delta.context_map.rank and bool(delta.tuned) == (mode == "tuned")
    assert erased.patches and not stock[0].patches
    assert all(torch.equal(old[key], new[key]) for old, new in zip(before, states(stock)) for key in old)
    again = erase(mode=mode)[1]
    assert all(torch.equal(a, b) for a, b in zip(delta.context_map.factors, again.context_map.factors))


def test_a_word_goes_where_the_closed_form_sends_a_name(pack, stock, erase, monkeypatch, run, trce_settings):
    """If what is learned is the vector of "gun", the map is that of TRCE Erase for "gun"."""
    module = pack.module.nodes.erase_from_pictures
    learn_words = module.learn_words

    def gun(denoise, encoder, *given, **others):
        (word,) = learn_words(denoise, encoder, *given, **others)
        return [type(word)(encoder.look_up(encoder.tokenize("gun")[1:2]), word.losses, word.queries)]

    monkeypatch.setattr(module, "learn_words", gun)
    found = erase(starts=1, settings=None)[1].context_map.dense()
    inputs = dict(model=stock[0], clip=stock[1], concepts="gun -> a pencil", keep="a dog")
    expected = run("TRCEErase", **inputs)[1].context_map.dense()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_the_report_counts_the_evaluations_of_the_model(pack, erase, monkeypatch):
    module, seen = pack.module.nodes.erase_from_pictures, []
    open_denoiser = module.open_denoiser

    @contextmanager
    def counted(*given):
        with open_denoiser(*given) as denoise:

            class Counted:
                def __getattr__(self, name):
                    return getattr(denoise, name)

                def __call__(self, x, *others):
                    seen.append(len(x))
                    return denoise(x, *others)

            yield Counted()

    monkeypatch.setattr(module, "open_denoiser", counted)
    report = erase()[2]
    assert seen and f"by {sum(seen)} evaluations of the model" in report


def test_names_beside_the_pictures_are_erased_as_well(erase):
    concepts = erase(concepts="a gun -> an umbrella")[1].info.concepts
    assert [pair.concept for pair in concepts] == ["word 1 of the pictures", "word 2 of the pictures", "a gun"]


def test_images_are_encoded_and_need_a_vae(erase):
    class Vae:
        def encode(self, images):
            assert images.shape == (2, 64, 80, 3)
            return torch.randn(2, 4, 8, 10, generator=torch.Generator().manual_seed(1))

    images = torch.rand(2, 70, 85, 4)
    assert "from 2 pictures" in erase(pictures=images, vae=Vae())[2]
    with pytest.raises(ValueError, match="connect the VAE"):
        erase(pictures=images)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (dict(pictures={"samples": torch.zeros(1, 16, 8, 8)}), "'pictures' are latents of shape"),
        (dict(pictures={"samples": torch.zeros(0, 4, 8, 8)}), "'pictures' are latents of shape"),
        (dict(pictures={"samples": torch.zeros(65, 4, 8, 8)}), "at most 64"),
        (dict(pictures={"samples": torch.full((1, 4, 8, 8), torch.nan)}), "NaN or Inf"),
        (dict(templates=""), "'templates' is empty"),
        (dict(templates="a photo of *\na photo"), "'templates': 'a photo' must have the word"),
        (dict(concepts="a ->> b -> c"), "Line 1 of 'concepts'"),
        (dict(concepts="a " * 80), "in 'concepts' cannot be used"),
        (dict(keep="a dog -> a cat"), "Line 1 of 'keep'"),
        (dict(keep="a " * 80), "in 'keep' cannot be used"),
        (dict(safe="a pencil | a pen"), "'safe' has more than one safe target"),
        (dict(safe="a pencil -> a pen"), "'safe' has an arrow"),
        (dict(safe="a " * 80), "in 'safe' cannot be used"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(pack, erase, monkeypatch, inputs, says):
    monkeypatch.setattr(pack.module.nodes.erase_from_pictures, "open_denoiser", lambda *_: pytest.fail("it learns"))
    with pytest.raises(ValueError, match=says):
        erase(**inputs)


def test_without_memory_it_is_one_sentence(pack, erase, monkeypatch):
    def learn_words(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(pack.module.nodes.erase_from_pictures, "learn_words", learn_words)
    with pytest.raises(ValueError, match="connect smaller 'pictures'"):
        erase()
