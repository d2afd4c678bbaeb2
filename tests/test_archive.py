"""What the registry would hand to users: exactly the pack, made by comfy-cli from the committed files."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {"LICENSE", "README.md", "__init__.py", "pyproject.toml"}
FOLDERS = {"nodes": ".py", "trce_ops": ".py", "workflows": (".json", ".jpg")}


def test_the_archive_holds_the_pack_and_nothing_else(tmp_path):
    clone = tmp_path / "comfyui-trce"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), clone], check=True)
    pack = [sys.executable, "-I", "-m", "comfy_cli", "--skip-prompt", "node", "pack"]
    subprocess.run(pack, cwd=clone, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    with zipfile.ZipFile(clone / "node.zip") as archive:
        files = {info.filename: info.file_size for info in archive.infolist()}
    folders = {name for name in files if "/" in name}
    assert set(files) - folders == SHIPPED
    assert all(name.endswith(FOLDERS[name.split("/")[0]]) for name in folders)
    assert {name for name in folders if name.startswith(("nodes/", "trce_ops/"))} == {
        path.relative_to(ROOT).as_posix() for folder in ("nodes", "trce_ops") for path in (ROOT / folder).glob("*.py")
    }
    assert sum(files.values()) < 1_000_000
