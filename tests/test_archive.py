"""What the registry would hand to users: exactly the pack, made by comfy-cli from the committed files."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {"LICENSE", "README.md", "__init__.py", "pyproject.toml"}
FOLDERS = {  # what may be in a folder of the pack
    "locales": {".json"},
    "nodes": {".py", ".md", ".jpg", ".png"},
    "subgraphs": {".json"},
    "trce_ops": {".py", ".txt", ".json"},
    "workflows": {".json", ".jpg"},
}


def git(*arguments, cwd=ROOT):
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_the_archive_holds_the_pack_and_nothing_else(tmp_path):
    clone = tmp_path / "comfyui-trce"
    git("clone", "--quiet", "--depth", "1", ROOT.as_uri(), clone)
    pack = [sys.executable, "-I", "-m", "comfy_cli", "--skip-prompt", "node", "pack"]
    subprocess.run(pack, cwd=clone, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    with zipfile.ZipFile(clone / "node.zip") as archive:
        files = {info.filename: info.file_size for info in archive.infolist()}
    tracked = git("ls-files", cwd=clone).splitlines()
    assert set(files) == SHIPPED | {name for name in tracked if name.split("/")[0] in FOLDERS}
    for name in set(files) - SHIPPED:
        assert Path(name).suffix in FOLDERS[name.split("/")[0]], name
    assert sum(files.values()) < 1_500_000
