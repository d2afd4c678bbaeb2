"""What saved workflows rely on: node ids, inputs, defaults. Change the snapshot only on purpose, with
`TRCE_UPDATE_GOLDEN=1 pytest tests/test_schema.py`, and never take an input or an id away."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "object_info.json"
IDS = [
    "TRCEErase",
    "TRCESettings",
    "TRCEEraseFromPictures",
    "TRCEApplyDelta",
    "TRCESaveDelta",
    "TRCELoadDelta",
    "TRCEDeltaToLoRA",
    "TRCESaveDiffusers",
    "TRCELoadWeights",
    "TRCEEraseConcepts",
    "TRCEKeepConcepts",
    "TRCEReport",
    "TRCEProbeConceptInversion",
    "TRCEProbeRingABell",
    "TRCEProbeTokenPrefix",
    "TRCEProbeLatentInversion",
    "TRCEProbeRelearning",
    "TRCEEraseByMethod",
    "TRCEMethodSettings",
]


def test_object_info_is_the_snapshot(pack, comfy_host, tmp_path, monkeypatch):
    paths = comfy_host.folder_paths.folder_names_and_paths
    for folder in ("erased_deltas", "diffusion_models"):
        monkeypatch.setitem(paths, folder, ([str(tmp_path)], {".safetensors"}))
    info = {node_id: node.GET_NODE_INFO_V1() for node_id, node in pack.nodes.items()}
    info = json.loads(json.dumps(info))
    if os.environ.get("TRCE_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(info, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    # Field by field of what this ComfyUI tells: older ones know fewer fields.
    assert info == {node_id: {name: node[name] for name in info[node_id]} for node_id, node in golden.items()}


def test_the_workflows_name_inputs_that_there_are():
    """ComfyUI drops a name that it does not know, without a word where the input is optional."""
    golden = json.loads(GOLDEN.read_text())
    known = {
        node_id: {*(n for names in node["input_order"].values() for n in names)} for node_id, node in golden.items()
    }
    named = []
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        nodes = [(node["class_type"], node["inputs"]) for node in json.loads(path.read_text()).values()]
        graph = json.loads((ROOT / "workflows" / path.name).read_text())
        nodes += [(node["type"], [entry["name"] for entry in node.get("inputs", ())]) for node in graph["nodes"]]
        named += [(path.name, kind, name.split(".")[0]) for kind, names in nodes for name in names if kind in known]
    assert len(named) > 100 and not [(path, kind, name) for path, kind, name in named if name not in known[kind]]


def test_the_ids_are_literal_and_complete(pack):
    assert list(pack.nodes) == IDS


@pytest.mark.parametrize("node_id", IDS)
def test_everything_has_a_tooltip(pack, node_id):
    schema = pack.nodes[node_id].define_schema()
    assert schema.category == "model/trce"
    assert schema.description
    assert schema.search_aliases
    opened = [i for part in schema.inputs for option in getattr(part, "options", None) or () for i in nested(option)]
    for part in schema.inputs + schema.outputs + opened:
        assert len(part.tooltip or "") > 20, part.id


def nested(option):
    """The inputs that a choice opens."""
    return getattr(option, "inputs", ())


def test_the_faces_are_short(pack):
    """What somebody sees who has just placed a node: no more than they need for a first try."""
    assert [i.id for i in pack.nodes["TRCEErase"].define_schema().inputs] == [
        *("model", "clip", "concepts", "keep", "mode", "strength", "settings")
    ]
    assert [i.id for i in pack.nodes["TRCEEraseByMethod"].define_schema().inputs] == [
        *("model", "clip", "concepts", "keep", "method", "strength", "settings")
    ]


def test_the_pack_has_one_version(pack):
    pyproject = (Path(pack.module.__file__).parent / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', pyproject, re.M)[1] == pack.ops.__version__


def test_a_comfyui_that_is_too_old_is_told_so_in_a_sentence(pack, monkeypatch):
    import comfyui_version

    wanted = re.search(r'requires-comfyui = ">=(.+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert ".".join(map(str, pack.module.OLDEST)) == wanted
    spec = importlib.util.spec_from_file_location("too_old", ROOT / "__init__.py", submodule_search_locations=[])
    monkeypatch.setattr(comfyui_version, "__version__", "0.3.75")
    with pytest.raises(ImportError, match=f"needs ComfyUI {wanted} or newer, and this is 0.3.75; update ComfyUI"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
