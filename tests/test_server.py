"""The shipped workflows on a real ComfyUI server, over HTTP, as `dev.py run` and the browser send them."""

import copy
import json
import re
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from websocket import create_connection

from tools.host import Host, WorkflowError
from tools.pins import COMFYUI_VERSION
from trce_ops.delta.file import load_delta

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
DONE_ABOVE = ("erase-a-concept", "apply-a-saved-delta", "compare-before-after")
NEED_OTHER_MODELS = {name for name in NAMES if '"models"' in (WORKFLOWS / f"{name}.json").read_text()}
STOCK = (
    "trce_demo_sd15",
    "trce_demo_flow",
    "trce_demo_outline",
    "example_cigarette",
    "example_cigarette_tuned",
    "example_line_art",
)  # what dev.py puts in place


def api(name):
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())


def ui(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text())


def node_of(prompt, class_type):
    return next(node_id for node_id, node in prompt.items() if node["class_type"] == class_type)


def quick(prompt):
    """The same workflow with two steps and one picture."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name, value in (("steps", 2), ("batch_size", 1)):
            if name in node["inputs"]:
                node["inputs"][name] = value
    return prompt


def test_every_workflow_runs(server, deltas):
    erase = api("erase-a-concept")
    erase[node_of(erase, "TRCESaveDelta")]["inputs"]["filename_prefix"] = "test/cigarette"
    negative, _ = erase[node_of(erase, "KSampler")]["inputs"]["negative"]
    erase[negative]["inputs"]["text"] = "blurry, a cigarette"
    outputs = server.queue(quick(erase))["outputs"]
    assert "images" in outputs[node_of(erase, "SaveImage")]
    saved = outputs[node_of(erase, "TRCESaveDelta")]["text"][0]
    assert (deltas / saved).is_file()
    report = outputs[node_of(erase, "PreviewAny")]["text"][0]
    assert "3 concepts" in report and "negative prompt of this workflow names what is erased: a cigarette" in report

    apply = api("apply-a-saved-delta")
    apply[node_of(apply, "TRCELoadDelta")]["inputs"]["delta_name"] = saved
    assert "images" in server.queue(quick(apply))["outputs"][node_of(apply, "SaveImage")]

    compare = quick(api("compare-before-after"))
    shown = server.queue(compare)["outputs"][node_of(compare, "ImageCompare")]
    before, after = (
        (server.folder / "temp" / shown[side][0]["filename"]).read_bytes() for side in ("a_images", "b_images")
    )
    assert before != after


def saved_by(server, folder, concepts, keep):
    """The file that a workflow of TRCE Erase saves."""
    prompt = {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "trce_demo_sd15.safetensors"}},
        "erase": {
            "class_type": "TRCEErase",
            "inputs": {"model": ["load", 0], "clip": ["load", 1], "concepts": concepts, "keep": keep},
        },
        "save": {"class_type": "TRCESaveDelta", "inputs": {"delta": ["erase", 1], "filename_prefix": "test/same"}},
    }
    return (folder / server.queue(prompt)["outputs"]["save"]["text"][0]).read_bytes()


def test_the_same_workflow_gives_the_same_delta_whatever_was_erased_before(server, deltas):
    """On a server that has cached other erasures, on one that starts with nothing, and on that one started again."""
    wanted, other = ("a cigarette -> a lollipop", "a tiger"), ("a tiger -> a dog", "a cigarette")
    saved_by(server, deltas, *other)
    found = [saved_by(server, deltas, *wanted)]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with Host(models=server.models, folder=Path(folder)) as fresh:
                found.append(saved_by(fresh, deltas, *wanted))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DONE_ABOVE and name not in NEED_OTHER_MODELS])
def test_the_other_workflows_run(server, deltas, name):
    assert server.queue(quick(api(name)))["status"]["completed"]


def test_the_preset_workflow_runs_on_another_checkpoint_of_sd15(server, deltas):
    prompt = quick(api("erase-from-a-preset"))
    for node in prompt.values():
        if "ckpt_name" in node["inputs"]:
            node["inputs"]["ckpt_name"] = "trce_demo_sd15.safetensors"
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": 64, "height": 64}
    done = server.queue(prompt)
    assert done["status"]["completed"]
    texts = [text for output in done["outputs"].values() for text in output.get("text", ())]
    assert any("gun" in text for text in texts), texts


@pytest.mark.parametrize("name", ["erase-from-z-image", "erase-from-flux"])
def test_a_workflow_for_a_model_in_several_files_runs_on_the_flow_model(server, deltas, name):
    prompt = quick(api(name))
    loader = node_of(prompt, "UNETLoader")
    files = {
        node_id: slot
        for slot, kind in enumerate(("UNETLoader", "CLIP", "VAELoader"))
        for node_id in loaders(prompt, kind)
    }
    prompt[loader] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "trce_demo_flow.safetensors"}}
    for node in prompt.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in files:
                node["inputs"][key] = [loader, files[value[0]]]
    prompt[node_of(prompt, "EmptySD3LatentImage")]["inputs"] |= {"width": 64, "height": 64}
    for node_id in files.keys() - {loader}:
        del prompt[node_id]
    assert server.queue(prompt)["status"]["completed"]


def loaders(prompt, kind):
    return [
        node_id for node_id, node in prompt.items() if kind in node["class_type"] and "Loader" in node["class_type"]
    ]


def test_the_settings_of_a_method_come_through_the_api(server, deltas):
    prompt = quick(api("erase-a-concept"))
    erase = node_of(prompt, "TRCEErase")
    told = {name: prompt[erase]["inputs"][name] for name in ("model", "clip", "concepts", "keep")}
    told |= {"method": "uce", "settings": ["settings", 0]}
    prompt[erase] = {"class_type": "TRCEEraseByMethod", "inputs": told}
    chosen = {"method": "uce", "method.ridge": 0.25, "method.expand": True}  # what is not named has its default
    prompt["settings"] = {"class_type": "TRCEMethodSettings", "inputs": chosen}
    prompt[node_of(prompt, "TRCESaveDelta")]["inputs"]["filename_prefix"] = "test/uce"
    saved = server.queue(prompt)["outputs"][node_of(prompt, "TRCESaveDelta")]["text"][0]
    info = load_delta(deltas / saved).info
    assert (info.method, info.settings["ridge"], info.settings["expand"]) == ("uce", 0.25, True)


def cancel_in(server, node_id, steps=None):
    """Press Cancel in the middle of a node's work, or of that many steps of it, in the next workflow."""
    events = create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=300)

    def listen():
        with closing(events):
            for message in filter(lambda message: isinstance(message, str), iter(events.recv, "")):
                event = json.loads(message)
                for node in event["data"]["nodes"].values() if event["type"] == "progress_state" else ():
                    here = node["display_node_id"] == node_id and steps in (None, node["max"])
                    if here and 0 < node["value"] < node["max"]:
                        return server.interrupt()

    threading.Thread(target=listen, daemon=True).start()


def test_cancel_over_http_leaves_no_file(server, deltas):
    prompt = quick(api("erase-a-concept"))
    erase = node_of(prompt, "TRCEErase")
    prompt[erase]["inputs"]["keep"] = "\n".join(f"a thing of kind {i}" for i in range(60))  # nothing of it is cached
    custom = {"closed_form": "custom", "closed_form.weight_pads": 0.5}
    prompt[node_of(prompt, "TRCESettings")]["inputs"] |= custom
    files = set(deltas.rglob("*"))

    cancel_in(server, erase)
    with pytest.raises(WorkflowError, match="Interrupted in TRCE Erase"):
        server.queue(prompt)
    assert set(deltas.rglob("*")) == files
    assert server.queue(quick(api("compare-before-after")))["status"]["completed"]


SHORT = {"tuning": "custom", "tuning.steps": 2, "tuning.trajectories": 1, "tuning.batch": 1, "resolution": 64}
SHORT |= {"tuning.early": 0.1, "tuning.words": 0}


def test_tuning_over_http_shows_its_curve_and_can_be_cancelled(server, deltas):
    prompt = quick(api("erase-a-concept"))
    erase = node_of(prompt, "TRCEErase")
    settings = node_of(prompt, "TRCESettings")
    prompt[erase]["inputs"]["mode"] = "tuned"
    prompt[settings]["inputs"] |= SHORT
    prompt["plot"] = {"class_type": "LossGraphNode", "inputs": {"loss": [erase, 3], "filename_prefix": "loss"}}
    outputs = server.queue(prompt)["outputs"]
    (curve,) = outputs[erase]["images"]
    assert (server.folder / "temp" / curve["filename"]).is_file()
    assert outputs["plot"]["images"]
    assert "Tuned" in outputs[node_of(prompt, "PreviewAny")]["text"][0]
    saved = outputs[node_of(prompt, "TRCESaveDelta")]["text"][0]
    assert b"tuned.diffusion_model" in (deltas / saved).read_bytes()

    files = set(deltas.rglob("*"))
    prompt[settings]["inputs"] |= {"tuning.steps": 500, "seed": 1}

    cancel_in(server, erase, steps=500)
    with pytest.raises(WorkflowError, match="Interrupted in TRCE Erase"):
        server.queue(prompt)
    assert set(deltas.rglob("*")) == files


@pytest.mark.parametrize(
    "inputs, sentence",
    [
        ({"concepts": ""}, "concepts"),
        ({"concepts": "cigarette " * 100}, "concepts"),
        ({"strength": 3.0}, "strength"),
    ],
)
def test_bad_input_is_refused_with_the_name_of_the_widget(server, inputs, sentence):
    prompt = quick(api("erase-a-concept"))
    prompt[node_of(prompt, "TRCEErase")]["inputs"] |= inputs
    with pytest.raises(WorkflowError, match=sentence):
        server.queue(prompt)


@pytest.mark.parametrize("name", NAMES)
def test_templates_find_the_pack_again(server, name):
    """Every node of a template says which pack and version it is of, has the inputs that the server knows, and its
    widgets hold what the API twin holds."""
    info = server.request("/object_info")
    twin = api(name)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    graph = ui(name)
    running = [node for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    assert len(running) < len(graph["nodes"])  # a note says what to do
    assert {str(node["id"]) for node in running if node["mode"] == 0} == set(twin)
    for node in running:
        ours = node["type"].startswith("TRCE")
        properties = node["properties"]
        assert properties["cnr_id"] == ("comfyui-trce" if ours else "comfy-core")
        assert properties["ver"] == (version if ours else COMFYUI_VERSION)
        known = info[node["type"]]["input"]
        names = [*known.get("required", {}), *known.get("optional", {})]
        assert [entry["name"] for entry in node["inputs"]] == [n for n in names if n != "compare_view"]
        files = {value for value in node["widgets_values"] if str(value).endswith(".safetensors")}
        files -= {f"{name}.safetensors" for name in STOCK}
        assert files == {model["name"] for model in properties.get("models", [])}
        for model in properties.get("models", []):
            assert model["url"].startswith("https://") and model["url"].endswith(model["name"]) and model["directory"]
        if ours:
            entries = [entry for entry in node["inputs"] if "widget" in entry]
            values = [
                value for value in node["widgets_values"] if value != "fixed"
            ]  # what becomes of a seed after a run
            for entry, value in zip(entries, values, strict=True):
                assert entry["link"] is not None or value == twin[str(node["id"])]["inputs"][entry["name"]]


def test_templates_are_offered_with_thumbnails(server):
    assert set(server.request("/workflow_templates")["comfyui-trce"]) == set(NAMES)
    for name in NAMES:
        picture = (WORKFLOWS / f"{name}.jpg").read_bytes()
        assert picture[:2] == b"\xff\xd8" and len(picture) < 100_000
