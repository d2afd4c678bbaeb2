"""What the pack touches, by Python's own audit: no network, no process, no file but where it says."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "pty.", "urllib.")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")

events = None  # a list while they are recorded; an audit hook cannot be taken out again


def note(event, args):
    if events is None:
        return
    if event.startswith(OUTSIDE):
        events.append((event, str(args)[:200]))
    elif event in CHANGES or event.startswith("shutil.") or event == "open" and writes(*args[1:]):
        events.append(("writes", os.path.abspath(os.fsdecode(args[0]))))


def writes(mode, flags):
    return bool(mode and set(mode) & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@pytest.fixture(scope="module")
def audit():
    """audit(function) -> what it did, as (event, arguments), and which files of the host's folders it changed."""
    sys.addaudithook(note)

    def record(function, folder):
        global events
        before, events = files(folder), []
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Python's own writing, not the pack's
        try:
            function()
            return events, {path for path, stamp in files(folder).items() if before.get(path) != stamp}
        finally:
            events, sys.dont_write_bytecode = None, bytecode

    return record


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_audit_sees_what_it_is_for(audit, tmp_path):
    """Else the next test could not fail."""
    import socket
    import subprocess

    def misbehave():
        socket.socket().close()
        subprocess.run([sys.executable, "-c", ""], check=True)
        (tmp_path / "file").write_bytes(b"data")
        os.replace(tmp_path / "file", tmp_path / "other")

    seen, changed = audit(misbehave, tmp_path)
    assert {event.partition(".")[0] for event, _ in seen} >= {"socket", "subprocess"}
    assert {path for event, path in seen if event == "writes"} >= {str(tmp_path / "file")}
    assert changed == {tmp_path / "other"}


def test_the_pack_opens_no_socket_starts_no_process_and_writes_where_it_says(
    audit, pack, comfy_host, make_model, make_clip, monkeypatch
):
    """Loading it, and then every node: erase and tune, save, load, apply, and both exports and the import."""
    import asyncio
    import importlib.util

    model, clip, paths = make_model(), make_clip(), comfy_host.folder_paths
    home = comfy_host.base / "confined"
    weights = home / "diffusion_models"
    monkeypatch.setattr(paths, "output_directory", str(home / "output"))
    monkeypatch.setattr(paths, "models_dir", str(home))
    for kind in ("diffusion_models", "erased_deltas"):
        monkeypatch.setitem(paths.folder_names_and_paths, kind, ([str(home / kind)], {".safetensors"}))
    for folder in (
        weights,
        home / "output",
        Path(paths.get_user_directory()),
    ):  # ComfyUI's own, which are there before any node runs
        folder.mkdir(parents=True, exist_ok=True)
    key = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    save_file({key: torch.zeros_like(model.model.state_dict()[key])}, weights / "part.safetensors")
    name = "trce_audited"

    def load():
        spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        extension = module.TRCEExtension()
        loop.run_until_complete(extension.on_load())
        return {node.define_schema().node_id: node for node in loop.run_until_complete(extension.get_node_list())}

    def run(node, **inputs):
        defaults = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
        with torch.inference_mode():
            return node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**{**defaults, **inputs}).args

    def work():
        nodes = load()
        erase, module = sys.modules[f"{name}.trce_ops.closed_form.erase"], sys.modules[f"{name}.nodes.settings"]
        monkeypatch.setattr(erase, "BENIGN_CAPTIONS", erase.BENIGN_CAPTIONS[::20])
        monkeypatch.setattr(module, "QUICK", replace(module.QUICK, sampling_steps=3, draws=1))
        tuning = dict(tuning="custom", steps=2, trajectories=1, batch=1)
        closed_form = dict(closed_form="custom", templates=False)
        (settings,) = run(nodes["TRCESettings"], closed_form=closed_form, tuning=tuning, resolution=64)
        tune = dict(mode="tuned", settings=settings)
        _, delta, *_ = run(nodes["TRCEErase"], model=model, clip=clip, concepts="a gun", keep="a dog", **tune)
        assert delta.tuned
        run(nodes["TRCESaveDelta"], delta=delta, filename_prefix="confined/star")
        (saved,) = (n for n in paths.get_filename_list("erased_deltas") if "confined" in n)
        (delta,) = run(nodes["TRCELoadDelta"], delta_name=saved)
        run(nodes["TRCEApplyDelta"], model=model, delta=delta, clip=clip)
        run(nodes["TRCEDeltaToLoRA"], model=model, delta=delta)
        run(nodes["TRCESaveDiffusers"], model=model, delta=delta)
        run(nodes["TRCELoadWeights"], model=model, weights_name="part.safetensors")

    loop = asyncio.new_event_loop()
    try:
        seen, changed = audit(work, comfy_host.base)
    finally:
        loop.close()
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]
    assert not [event for event, _ in seen if event != "writes"]
    places = SimpleNamespace(
        output=paths.get_output_directory(),
        deltas=paths.get_folder_paths("erased_deltas")[0],
        cache=pack.host.folders.cache_folder(),
        preview=paths.get_temp_directory(),  # the tuning's curve, through ComfyUI's own preview
    )
    written = {Path(path) for event, path in seen if event == "writes"} | changed
    found = {place: [path for path in written if path.is_relative_to(root)] for place, root in vars(places).items()}
    assert all(found.values()), found  # each of them was used
    assert sorted(written.difference(*found.values())) == []
