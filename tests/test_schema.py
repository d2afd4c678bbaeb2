"""What saved workflows rely on: node ids, inputs, defaults. Change the snapshot only on purpose, with
`TRCE_UPDATE_GOLDEN=1 pytest tests/test_schema.py`, and never take an input or an id away."""

import json
import os
import re
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden" / "object_info.json"
IDS = [
    "TRCEErase",
    "TRCEApplyDelta",
    "TRCESaveDelta",
    "TRCELoadDelta",
    "TRCEDeltaToLoRA",
    "TRCESaveDiffusers",
    "TRCELoadWeights",
    "TRCEEraseConcepts",
    "TRCEKeepConcepts",
]


def test_object_info_is_the_snapshot(pack, comfy_host, tmp_path, monkeypatch):
    paths = comfy_host.folder_paths.folder_names_and_paths
    for folder in ("erased_deltas", "diffusion_models"):
        monkeypatch.setitem(paths, folder, ([str(tmp_path)], {".safetensors"}))
    info = {node_id: node.GET_NODE_INFO_V1() for node_id, node in pack.nodes.items()}
    info = json.loads(json.dumps(info))
    if os.environ.get("TRCE_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(info, indent=2) + "\n")
    assert info == json.loads(GOLDEN.read_text())


def test_the_ids_are_literal_and_complete(pack):
    assert list(pack.nodes) == IDS


@pytest.mark.parametrize("node_id", IDS)
def test_everything_has_a_tooltip(pack, node_id):
    schema = pack.nodes[node_id].define_schema()
    assert schema.category == "model/trce"
    assert schema.description
    assert schema.search_aliases
    for part in schema.inputs + schema.outputs:
        assert len(part.tooltip or "") > 20, part.id


def test_the_pack_has_one_version(pack):
    pyproject = (Path(pack.module.__file__).parent / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', pyproject, re.M)[1] == pack.ops.__version__
