"""What a stranger can send to the server: names, links, floods and cancels. It stays up, no file is half or outside,
and the model that all prompts share draws the same bytes afterwards.

TRCE_INTERRUPTS says how many cancels at random moments (CI does 12; 200 were done by hand, see docs/reliability.md).
"""

import copy
import json
import os
import random
import threading
import time
import urllib.error

import pytest

from tools.host import WorkflowError
from trce_ops.delta.file import load_delta

MODEL = "trce_demo_sd15.safetensors"
INTERRUPTS = int(os.environ.get("TRCE_INTERRUPTS", 12))

GRAPH = {
    "checkpoint": ("CheckpointLoaderSimple", dict(ckpt_name=MODEL)),
    "erase": (
        "TRCEErase",
        dict(model=["checkpoint", 0], clip=["checkpoint", 1], concepts="a cigarette -> a lollipop", keep="a pencil")
        | dict(mode="closed form", strength=1.0, settings=["settings", 0]),
    ),
    "settings": (
        "TRCESettings",
        {"closed_form": "custom", "closed_form.templates": False, "closed_form.preserve": 1.0}
        | {"tuning": "custom", "tuning.steps": 3, "tuning.trajectories": 1, "tuning.batch": 1, "resolution": 32}
        | {"tuning.early": 0.1, "tuning.words": 0},
    ),
    "save": ("TRCESaveDelta", dict(delta=["erase", 1], filename_prefix="hostile/x")),
    "text": ("CLIPTextEncode", dict(clip=["checkpoint", 1], text="a cigarette")),
    "latent": ("EmptyLatentImage", dict(width=64, height=64, batch_size=1)),
    "sample": (
        "KSampler",
        dict(model=["erase", 0], positive=["text", 0], negative=["text", 0], latent_image=["latent", 0], seed=7)
        | dict(steps=2, cfg=4.0, sampler_name="euler", scheduler="normal", denoise=1.0),
    ),
    "decode": ("VAEDecode", dict(samples=["sample", 0], vae=["checkpoint", 2])),
    "picture": ("SaveImage", dict(images=["decode", 0], filename_prefix="hostile")),
}


def graph(*leaves, **inputs):
    """The part of GRAPH that the leaves need; inputs as node={name: value}."""
    prompt, todo = {}, list(leaves)
    while todo:
        name = todo.pop()
        kind, given = GRAPH[name]
        prompt[name] = {"class_type": kind, "inputs": copy.deepcopy(given)}
        todo += [value[0] for value in given.values() if isinstance(value, list) and value[0] not in prompt]
    for name, changed in inputs.items():
        prompt[name]["inputs"] |= changed
    return prompt


def unerased(server) -> bytes:
    """The picture that the checkpoint draws without any delta, drawn anew."""
    prompt = graph("picture", sample={"model": ["checkpoint", 0]})
    entry = server.queue(prompt)
    cached = dict(entry["status"]["messages"])["execution_cached"]["nodes"]
    assert "sample" not in cached
    (shown,) = entry["outputs"]["picture"]["images"]
    file = server.output_dir / shown["subfolder"] / shown["filename"]
    server.queue(graph("picture", sample={"model": ["checkpoint", 0], "seed": 8}))  # the next call is not cached
    return file.read_bytes()


@pytest.fixture(scope="module")
def before(server):
    return unerased(server)


@pytest.fixture
def unharmed(server, before, deltas):
    """After the test: the server answers, draws as it did before, and every file is whole."""
    yield
    assert unerased(server) == before
    assert not list(server.models.rglob("*.part")) + list(server.folder.rglob("*.part"))
    for path in (deltas / "hostile").glob("*"):
        load_delta(path)


def files(server) -> set[str]:
    """All that a prompt could have written, but for pictures and for what ComfyUI and the cache keep."""
    places = [server.models, server.folder / "output", server.folder / "input"]
    found = {str(path) for place in places for path in place.rglob("*")}
    return found | {str(path) for path in (*server.folder.glob("*"), *server.installation.host_dir.glob("*"))}


# Names

OUTSIDE = ["../outside", "/outside", "a/../../../outside", "..\\..\\outside", "C:\\outside", "\\\\host\\outside"]
UNFIT = ["", "..", "CON", "aux/x", "NUL.txt", "x:y", "x\0y", "x\ny", "\ud800", "x" * 300, "d/" * 3000 + "x"]


@pytest.mark.parametrize("writer", ["delta", "weights"])
def test_names_that_lead_elsewhere_write_nothing(server, unharmed, writer):
    weights = {"class_type": "TRCESaveDiffusers", "inputs": {"model": ["checkpoint", 0], "delta": ["erase", 1]}}
    prompt = graph("erase") | ({"save": weights} if writer == "weights" else graph("save"))
    before = files(server)
    for name in OUTSIDE + UNFIT:
        prompt["save"]["inputs"]["filename_prefix"] = name
        with pytest.raises(WorkflowError, match="'filename_prefix' is"):
            server.queue(prompt)
    assert files(server) == before


LOADERS = {"TRCELoadDelta": "delta_name", "TRCELoadWeights": "weights_name"}
READ = [f"../checkpoints/{MODEL}", f"..\\checkpoints\\{MODEL}", "/etc/passwd", "", "."]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("loader", LOADERS)
def test_names_that_lead_elsewhere_read_nothing(server, unharmed, loader, linked):
    """Also where the name comes over a link, which ComfyUI does not compare with the list."""
    model = {"model": ["checkpoint", 0], "strength": 1.0} if loader == "TRCELoadWeights" else {}
    prompt = graph("checkpoint")
    prompt["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}}
    for name in [*READ, str(server.installation.checkpoint)]:
        prompt["name"] = {"class_type": "PrimitiveString", "inputs": {"value": name}}
        switch = {"switch": True, "on_true": ["name", 0], "on_false": ["name", 0]}
        prompt["link"] = {"class_type": "ComfySwitchNode", "inputs": switch}
        given = {LOADERS[loader]: ["link", 0] if linked else name}
        prompt["load"] = {"class_type": loader, "inputs": given | model}
        with pytest.raises(WorkflowError, match="not found|not in list"):
            server.queue(prompt)


# Links


def refused(server, prompt) -> bool:
    """Whether the server or the node says no, and not for an interrupt."""
    try:
        server.queue(prompt)
    except (WorkflowError, urllib.error.HTTPError) as error:
        return "Interrupted" not in str(error)
    return False


def test_links_of_a_wrong_type_are_refused(server, unharmed):
    """Every linked input of every node of ours, with every type of output that does not belong there."""
    sources = {"MODEL": ["checkpoint", 0], "CLIP": ["checkpoint", 1], "VAE": ["checkpoint", 2], "LATENT": ["latent", 0]}
    sources |= {"CONDITIONING": ["text", 0], "ERASED_DELTA": ["erase", 1], "STRING": ["erase", 2]}
    tried = 0
    for node_id, node in server.request("/object_info").items():
        if not node_id.startswith("TRCE"):
            continue
        known = node["input"]["required"] | node["input"].get("optional", {})
        for name, (kind, *_) in known.items():
            for source, link in sources.items():
                fits = isinstance(kind, list) or kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3", "*")
                fits = fits or source in kind.split(",")
                if fits:
                    continue
                prompt = graph("erase", "latent", "text")
                prompt["victim"] = {"class_type": node_id, "inputs": {name: link}}
                prompt["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["victim", 0]}}
                with pytest.raises(WorkflowError, match="[Rr]eturn type mismatch"):
                    server.submit(prompt)
                tried += 1
    assert tried > 200


MALFORMED = [
    *([], {}, None, True, 3.5, "text", ["checkpoint"], ["checkpoint", 99], ["checkpoint", -9], ["checkpoint", "0"]),
    *(["nowhere", 0], ["erase", 0], [["checkpoint", 0]], ["checkpoint", 0, 0], {"model": 1}, [None, None], [0] * 1000),
]


@pytest.mark.parametrize("name", ["model", "clip", "concepts", "strength", "settings", "mode"])
def test_malformed_links_are_refused(server, unharmed, deltas, name):
    before = files(server)
    for value in MALFORMED:
        if name in ("concepts", "strength") and not isinstance(value, list):
            continue  # ComfyUI makes a text or a number of it
        if name == "settings" and value is None:
            continue  # an optional input that is null is one that is not connected
        assert refused(server, graph("save", erase={name: value})), value
    assert files(server) == before


@pytest.mark.parametrize("delta", ["text", 1, {"concepts": "cigarette"}, True])
def test_a_delta_that_is_none_writes_and_applies_nothing(server, unharmed, delta):
    before = files(server)
    apply = {"class_type": "TRCEApplyDelta", "inputs": {"model": ["checkpoint", 0], "delta": delta, "strength": 1.0}}
    assert refused(server, graph("save", save={"delta": delta}))
    assert refused(server, graph("picture", sample={"model": ["apply", 0]}) | {"apply": apply})
    assert files(server) == before


# Floods and cancels


def wait_until_idle(server, seconds=600):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        queue = server.request("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.1)
    pytest.fail(f"The server did not empty its queue in {seconds} s.")


def test_a_hundred_prompts_at_once_each_save_one_file(server, unharmed, deltas):
    answers = []
    for number in range(100):
        prompt = graph("save", erase={"strength": number / 100}, save={"filename_prefix": "hostile/flood"})
        prompt["save"]["inputs"]["filename_prefix"] += "ab"[number % 2]
        answers.append(server.submit(prompt)["prompt_id"])
    wait_until_idle(server)
    assert all(server.history(prompt_id)["status"]["completed"] for prompt_id in answers)
    saved = [(deltas / "hostile" / f"flood{side}_{n:05}_.safetensors") for side in "ab" for n in range(1, 51)]
    assert set((deltas / "hostile").glob("flood*")) == set(saved)
    assert len({path.read_bytes() for path in saved}) == 1  # strength is none of the delta's business


def test_a_hundred_nodes_in_a_row(server, unharmed):
    prompt, model = graph("picture"), ["checkpoint", 0]
    for number in range(100):
        inputs = {"model": model, "delta": ["erase", 1], "strength": 0.01}
        prompt[f"apply{number}"] = {"class_type": "TRCEApplyDelta", "inputs": inputs}
        model = [f"apply{number}", 0]
    prompt["sample"]["inputs"]["model"] = model
    assert server.queue(prompt)["outputs"]["picture"]["images"]


def test_two_clients_at_once_get_each_their_own(server, unharmed, deltas):
    """What each gets is what it would have got alone."""
    concepts = {"a": "a cigarette -> a lollipop", "b": "a tiger -> a dog"}
    failures = []

    def client(side):
        try:
            for number in range(4):
                erase = {"concepts": concepts[side], "strength": number / 4}
                saved = server.queue(graph("save", erase=erase, save={"filename_prefix": f"hostile/two{side}"}))
                assert saved["outputs"]["save"]["text"] == [f"hostile/two{side}_{number + 1:05}_.safetensors"]
        except BaseException as error:
            failures.append(error)

    clients = [threading.Thread(target=client, args=[side]) for side in concepts]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert not failures
    contents = [{path.read_bytes() for path in (deltas / "hostile").glob(f"two{side}_*")} for side in concepts]
    assert [len(content) for content in contents] == [1, 1] and contents[0] != contents[1]


def test_cancels_at_random_moments_lose_nothing(server, unharmed, before, deltas):
    """Through erasing, tuning, saving, loading and sampling; also when it is all over, and twice in a row."""
    rng = random.Random(0)
    outcomes = {"cancelled": 0, "finished": 0}
    server.queue(graph("save"))  # everyday captions are encoded once
    takes = {}  # by mode, seconds of a run that was let finish: the first ones are
    for number in range(INTERRUPTS + 2):
        # nothing of it is cached
        mode = ("tuned", "closed form")[number % 2]
        erase = {"keep": f"a pencil of kind {number}", "mode": mode}
        written_before = set((deltas / "hostile").glob("*"))
        start = time.monotonic()
        prompt_id = server.submit(
            graph("save", "picture", erase=erase, settings={"seed": number}, sample={"steps": 4})
        )["prompt_id"]
        if mode in takes:
            time.sleep(rng.uniform(0, 1.1 * takes[mode]))
            for _ in range(rng.choice([1, 1, 2])):
                server.interrupt()
        wait_until_idle(server)
        takes.setdefault(mode, time.monotonic() - start)
        status = server.history(prompt_id)["status"]
        written = set((deltas / "hostile").glob("*")) - written_before
        outcomes["finished" if status["completed"] else "cancelled"] += 1
        assert status["completed"] or "execution_interrupted" in dict(status["messages"]), json.dumps(status)[:2000]
        assert len(written) in ((1,) if status["completed"] else (0, 1))
        for path in written:
            load_delta(path)
        if number % 50 == 0:
            assert unerased(server) == before
    print(f"\n{INTERRUPTS} cancels, of runs that take {takes}: {outcomes}")
    assert outcomes["cancelled"] >= INTERRUPTS // 4
