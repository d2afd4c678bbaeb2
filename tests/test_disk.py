"""Disks that are full, folders that cannot be written, two processes at one file: a sentence, and nothing lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import trce_ops
from trce_ops.closed_form import preserve
from trce_ops.delta.low_rank import WeightChange
from trce_ops.files import disk_cache
from trce_ops.files.atomic import load_checked, save_checked, write_numbered, write_whole
from trce_ops.tuning.cache import from_tensors, to_tensors
from trce_ops.tuning.train import Tuning


def fail(code, monkeypatch):
    """Every file that is written breaks off half way."""
    write = Path.write_bytes

    def broken(self, data):
        write(self, data[: len(data) // 2])
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "write_bytes", broken)


@pytest.fixture
def delta(pack):
    info = pack.ops.delta.file.DeltaInfo("sd1", "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
    return pack.ops.delta.file.ErasedDelta({"context": pack.ops.delta.low_rank.ContextMap((torch.eye(32),))}, info)


@pytest.fixture
def folder(pack, comfy_host, tmp_path, monkeypatch):
    """Everything that nodes save comes here."""
    root = tmp_path / "root"
    root.mkdir()
    paths = comfy_host.folder_paths
    monkeypatch.setitem(paths.folder_names_and_paths, "erased_deltas", ([str(root)], {".safetensors"}))
    monkeypatch.setattr(paths, "output_directory", str(root))
    return root


SAVES = {
    "TRCESaveDelta": dict(filename_prefix="star"),
    "TRCESaveDiffusers": dict(filename_prefix="star"),
}


def save(run, make_model, node, delta):
    inputs = {"model": make_model()} if node == "TRCESaveDiffusers" else {}
    run(node, delta=delta, **SAVES[node], **inputs)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("node", SAVES)
def test_a_save_that_fails_is_a_sentence_and_leaves_what_was_there(
    pack, run, make_model, delta, folder, monkeypatch, node, code
):
    save(run, make_model, node, delta)
    (first,) = folder.iterdir()
    before = first.read_bytes()
    fail(code, monkeypatch)
    with pytest.raises(
        pack.host.errors.HostError, match=f"Nothing was saved in .*: {os.strerror(code)}. Make room"
    ) as refusal:
        save(run, make_model, node, delta)
    assert "\n" not in str(refusal.value)
    assert list(folder.iterdir()) == [first]
    assert first.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_file_that_the_system_cuts_off_leaves_nothing(pack, run, make_model, delta, folder):
    """No pretence: the kernel refuses to write on in the middle of the file."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(pack.host.errors.HostError, match="Nothing was saved in"):
            save(run, make_model, "TRCESaveDelta", delta)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.iterdir())


def test_a_file_in_the_place_of_the_folder(pack, run, make_model, delta, folder):
    (folder / "set").write_bytes(b"a file")
    with pytest.raises(pack.host.errors.HostError, match="Nothing was saved in"):
        run("TRCESaveDelta", delta=delta, filename_prefix="set/star")
    assert [path.read_bytes() for path in folder.iterdir()] == [b"a file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_caches_that_cannot_be_written_stop_nothing(encoder, tmp_path, caplog, monkeypatch, code):
    kept = preserve.keep_moment(("a dog",), encoder, tmp_path)
    (cached,) = tmp_path.iterdir()
    before = cached.read_bytes()
    fail(code, monkeypatch)
    again = preserve.keep_moment(("a dog", "a cat"), encoder, tmp_path)
    assert again.moment.shape == kept.moment.shape
    assert os.strerror(code) in caplog.text and "cannot be written" in caplog.text
    assert list(tmp_path.iterdir()) == [cached]
    assert cached.read_bytes() == before


def test_a_cache_that_can_only_be_read_is_read(encoder, tmp_path, monkeypatch):
    kept = preserve.keep_moment(("a dog",), encoder, tmp_path)
    encoder.encoded.clear()

    def refuse(*_):
        raise PermissionError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert torch.equal(preserve.keep_moment(("a dog",), encoder, tmp_path).moment, kept.moment)
    assert not encoder.encoded


def test_a_tuning_comes_back_from_its_cache(tmp_path):
    tuning = Tuning({"a.b": WeightChange((torch.ones(2, 1), torch.ones(1, 2)))}, (0.5,), (0.1,), (0.2,))
    cache = disk_cache.DiskCache(tmp_path, "tuned")
    cache.write("key", to_tensors(tuning))
    found = cache.read("key", from_tensors)
    assert found.losses == tuning.losses
    assert torch.equal(found.tuned["a.b"].dense(), tuning.tuned["a.b"].dense())


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_an_old_cache_file_that_cannot_be_removed_is_no_failure_to_write(tmp_path, caplog, monkeypatch, error):
    """On Windows a file that somebody has open; a file that another process has removed in the meantime."""
    monkeypatch.setattr(disk_cache, "FILES", 1)
    cache = disk_cache.DiskCache(tmp_path, "tuned")
    cache.write("first", {"a": torch.ones(1)})

    def refuse(self, *_, **__):
        raise error(errno.EACCES, "in use", str(self))

    with monkeypatch.context() as locked:
        locked.setattr(Path, "unlink", lambda self, **_: None if self.suffix == ".part" else refuse(self))
        cache.write("second", {"a": torch.ones(1)})
    assert "cannot be written" not in caplog.text and caplog.text.count("cannot be removed") == 1
    assert cache.read("second", dict) and cache.read("first", dict)
    with monkeypatch.context() as vanishing:
        stat = Path.stat
        first = cache.path("first")
        vanishing.setattr(Path, "stat", lambda self, **_: refuse(self) if self == first else stat(self, **_))
        cache.write("third", {"a": torch.ones(1)})
    assert "cannot be written" not in caplog.text
    assert cache.read("third", dict)


def test_without_a_folder_nothing_is_kept():
    cache = disk_cache.DiskCache(None, "tuned")
    cache.write("key", {"a": torch.ones(1)})
    assert cache.read("key", dict) is None


def test_tensors_are_known_to_be_whole(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checked(path, {"a": torch.arange(4.0)})
    assert torch.equal(load_checked(path)["a"], torch.arange(4.0))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum does not match"):
        load_checked(path)


def test_a_rename_that_fails_leaves_no_name_behind(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", refuse)
    for write in (
        lambda: write_numbered(tmp_path, "star", 1, b"data"),
        lambda: write_whole(tmp_path / "star", b"data"),
    ):
        with pytest.raises(OSError, match="disk"):
            write()
        assert not list(tmp_path.iterdir())


WRITER = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("trce_ops", sys.argv[1])
sys.modules["trce_ops"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    print(module.files.atomic.write_numbered(sys.argv[2], "star", 1, sys.argv[3].encode() * 100_000))
"""


def test_two_processes_that_save_at_once_lose_nothing(tmp_path):
    """Both begin at number 1 every time, as if neither had seen the other's files."""
    command = [sys.executable, "-c", WRITER, trce_ops.__file__, str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    writers = {letter: subprocess.Popen([*command, letter], **pipes) for letter in "ab"}
    for writer in writers.values():
        assert writer.stdout.readline() == "ready\n"
    for writer in writers.values():
        writer.stdin.write("go\n")
        writer.stdin.flush()
    names = {letter: writer.communicate(timeout=120)[0].split() for letter, writer in writers.items()}
    assert all(writer.returncode == 0 for writer in writers.values())
    assert sorted(names["a"] + names["b"]) == sorted(path.name for path in tmp_path.iterdir())
    assert len(names["a"]) == len(names["b"]) == 100
    for letter, written in names.items():
        assert all((tmp_path / name).read_bytes() == letter.encode() * 100_000 for name in written)
