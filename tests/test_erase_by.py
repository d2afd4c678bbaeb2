"""Erase by Another Method, run in process as ComfyUI runs it, on a small SD1.x model."""

import re
from dataclasses import replace

import pytest
import torch

from trce_ops.methods.registry import METHODS

OFFERED = [name for name in METHODS if name not in ("trce", "trce-robust", "trce-closed-form")]
ON_UNETS = [name for name in OFFERED if name != "erase-anything"]
CONCEPTS, KEEP = "a gun -> an umbrella\nblood", "a dog\na water pistol"
pytestmark = pytest.mark.usefixtures("few_captions")
TRAINING = {"steps": 2, "trajectories": 2, "resolution": 64}


@pytest.fixture
def choice(run):
    """choice(method, ...) -> the inputs that choose a method and its knobs."""

    def build(name, **knobs):
        knobs = {**(TRAINING if METHODS[name].trains else {}), **knobs}
        settings = run("TRCEMethodSettings", method={"method": name, **knobs})[0] if knobs else None
        return {"method": name, "settings": settings}

    return build


def conditioning(clip, text):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text))


def test_the_widgets_are_fields_of_the_settings_with_their_defaults(pack):
    (method,) = (i for i in pack.nodes["TRCEEraseByMethod"].define_schema().inputs if i.id == "method")
    assert method.options == OFFERED
    (combo,) = pack.nodes["TRCEMethodSettings"].define_schema().inputs
    assert {option.key for option in combo.options} <= set(OFFERED)
    for option in combo.options:
        settings = METHODS[option.key].settings
        widgets = [i for i in option.inputs if i.id != "resolution"]  # 0 stands for the family's own
        assert {i.id: i.default for i in widgets} == {i.id: getattr(settings, i.id) for i in widgets}


def test_without_settings_a_method_has_the_values_of_its_paper(pack, run):
    for name in OFFERED:
        settings = pack.module.nodes.method_settings.MethodSettings().of(name, 640)
        ours = pack.ops.methods.registry.METHODS[name].settings
        assert settings == (replace(ours, resolution=640) if hasattr(ours, "resolution") else ours)
    (chosen,) = run("TRCEMethodSettings", method={"method": "esd", "resolution": 64, "steps": 3})
    assert (chosen.of("esd", 640).resolution, chosen.of("esd", 640).steps) == (64, 3)


def test_settings_for_another_method_are_refused(pack, run, make_model, make_clip, choice, trce_settings):
    model = make_model()
    inputs = dict(model=model, clip=make_clip(), concepts=CONCEPTS, keep=KEEP)
    told = "'method' of Erase by Another Method is 'rece', but 'method' of Method Settings is 'uce'"
    for settings, says in (
        (choice("uce", ridge=1.0)["settings"], told),
        (trce_settings(), "'settings' holds a Settings; connect the node Method Settings"),
    ):
        with pytest.raises(pack.host.errors.HostError, match=says):
            run("TRCEEraseByMethod", **inputs, method="rece", settings=settings)
    assert not model.patches


@pytest.mark.parametrize("name", ON_UNETS)
def test_every_method_erases_and_its_delta_does_the_same(run, make_model, make_clip, sample, choice, name):
    model, clip = make_model(), make_clip()
    gun, empty = conditioning(clip, "a gun"), conditioning(clip, "")
    before = sample(model, gun, empty)
    inputs = dict(model=model, clip=clip, concepts=CONCEPTS, keep=KEEP, **choice(name))
    erased, delta, report = run("TRCEEraseByMethod", **inputs)
    after = sample(erased, gun, empty)
    assert not torch.equal(before, after)
    assert torch.equal(sample(model, gun, empty), before)
    (applied,) = run("TRCEApplyDelta", model=model, delta=delta, clip=clip)
    assert torch.equal(sample(applied, gun, empty), after)
    none, *_ = run("TRCEEraseByMethod", **inputs, strength=0.0)
    assert torch.equal(sample(none, gun, empty), before)
    assert delta.info.method == name and METHODS[name].paper in report


def test_methods_that_look_at_the_weights_see_them_with_their_loras(run, make_model, make_clip, choice):
    model, clip = make_model(), make_clip()
    key = next(k for k in model.model.state_dict() if k.endswith("attn2.to_v.weight"))
    with_lora = model.clone()
    with_lora.add_patches({key: ("diff", (torch.ones_like(model.model.state_dict()[key]),))}, 1.0)
    inputs = dict(clip=clip, concepts=CONCEPTS, keep=KEEP, **choice("speed"))
    (_, plain, _), (_, other, _) = (run("TRCEEraseByMethod", model=m, **inputs) for m in (model, with_lora))
    module = key.removesuffix(".weight")
    assert not torch.equal(plain.tuned[module].dense(), other.tuned[module].dense())
    assert all(torch.equal(plain.tuned[m].dense(), other.tuned[m].dense()) for m in plain.tuned if m != module)


@pytest.mark.parametrize("name", ON_UNETS)
def test_the_same_inputs_give_the_same_file(pack, run, make_model, make_clip, tmp_path, choice, name):
    inputs = dict(concepts=CONCEPTS, keep=KEEP, **choice(name))
    for i in range(2):
        _, delta, _ = run("TRCEEraseByMethod", model=make_model(), clip=make_clip(), **inputs)
        pack.ops.delta.file.save_delta(delta, tmp_path / f"{i}")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


@pytest.mark.parametrize("name", ON_UNETS)
def test_cancel_leaves_model_and_clip_as_they_were(
    pack, make_model, make_clip, monkeypatch, tmp_path, choice, name, listen
):
    """Cancelled at the last step that it tells of: for ESD that is in the training."""
    import comfy.model_management as mm

    model, clip = make_model(), make_clip()
    parts = (model.model, clip.cond_stage_model)
    before = [{key: weight.clone() for key, weight in part.state_dict().items()} for part in parts]
    node = pack.nodes["TRCEEraseByMethod"].PREPARE_CLASS_CLONE(None)
    told, chosen = [], choice(name)

    def start(number):
        folder = tmp_path / str(number)
        monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(folder))
        told.clear()
        with torch.inference_mode():
            return node.EXECUTE_NORMALIZED(model=model, clip=clip, concepts=CONCEPTS, keep=KEEP, strength=1.0, **chosen)

    listen(lambda node_id, text: told.append(text))
    output = start(0)
    steps = len(told) - 1
    assert told[-1] == output.args[2] and output.ui == {"text": [told[-1]]}

    def cancelling(node_id, text):
        told.append(text)
        if len(told) == steps - 1:
            mm.interrupt_current_processing()

    listen(cancelling)
    with pytest.raises(mm.InterruptProcessingException):
        start(1)
    assert len(told) == steps - 1
    assert not model.patches
    for part, weights in zip(parts, before):
        assert all(torch.equal(weight, weights[key]) for key, weight in part.state_dict().items())


def test_the_report_shows_every_concept_as_it_was_read_and_what_contradicts_it(run, make_model, make_clip, caplog):
    """As that of TRCE Erase does."""
    inputs = dict(model=make_model(), clip=make_clip(), keep="a gun", method="uce")
    report = run("TRCEEraseByMethod", concepts="gun ☂ umbrella\n" + r"saber \[fate\] -> a knight", **inputs)[2]
    assert "  gun ☂ umbrella\n" in report
    assert "'[' plain text" in report and "plain text" in caplog.text
    report = run("TRCEEraseByMethod", concepts="a gun -> an umbrella\ngun -> a kite", **inputs)[2]
    assert "  a gun -> an umbrella" in report
    assert "'a gun' in 'keep' mentions the concept" in report and "two safe targets" in report


def test_messages_name_what_this_node_has(pack, run, make_model, make_clip, choice, monkeypatch):
    model = make_model()
    model.model.concat_keys = ("mask",)
    inputs = dict(model=model, clip=make_clip(), concepts=CONCEPTS, keep=KEEP)
    with pytest.raises(pack.host.errors.HostError, match="or choose another 'method', such as uce"):
        run("TRCEEraseByMethod", **inputs, **choice("esd"))
    monkeypatch.setattr(pack.module.nodes.host.lend, "text_weights", lambda *_: {})
    with pytest.raises(ValueError, match="choose another method: ") as error:
        run("TRCEEraseByMethod", **inputs, **choice("speed"))
    assert set(re.split(", | or ", str(error.value).rstrip(".").rpartition(": ")[2])) <= set(OFFERED)


def test_erase_anything_is_refused_on_a_unet_by_what_it_lacks(pack, run, make_model, make_clip, choice):
    inputs = dict(model=make_model(), clip=make_clip(), concepts=CONCEPTS, keep=KEEP, **choice("erase-anything"))
    with pytest.raises(Exception, match="trains the queries and keys of a text stream .* for SD3, Flux"):
        run("TRCEEraseByMethod", **inputs)
