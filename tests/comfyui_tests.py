"""ComfyUI's own tests, on a copy of it without the pack and on one with it: `python dev.py comfyui-tests`.

Some of them fail for reasons of their own, such as no network; the pack must not add one. Takes about ten minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree  # noqa: S405 - of files that pytest has just written
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITES = ("tests-unit", "tests/execution")


def outcomes(comfyui: Path, suite: str, port: int) -> dict[str, str]:
    """{test: passed, skipped, failure or error} of a suite."""
    report = comfyui / "report.xml"
    command = [sys.executable, "-m", "pytest", suite, "-q", "--tb=no", f"--junit-xml={report}"]
    command += ["--port", str(port)] if suite == "tests/execution" else []
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # they start servers with "python"
    environment = os.environ | {"PATH": path}
    with (comfyui / "tests.log").open("ab") as log:
        subprocess.run(command, cwd=comfyui, env=environment, stdout=log, stderr=log)
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314
    return {f"{c.get('classname')}.{c.get('name')}": next((part.tag for part in c), "passed") for c in cases}


def main(comfyui: Path, port: int) -> int:
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        without, with_pack = (Path(folder, name, "ComfyUI") for name in ("without", "with"))
        for copy in (without, with_pack):
            shutil.copytree(comfyui, copy, ignore=shutil.ignore_patterns("comfyui-trce", "__pycache__"))
        (with_pack / "custom_nodes" / "comfyui-trce").symlink_to(ROOT, target_is_directory=True)
        for suite in SUITES:
            before, after = (outcomes(copy, suite, port) for copy in (without, with_pack))
            for name, found in (("without", before), ("with", after)):
                kinds = {kind: list(found.values()).count(kind) for kind in sorted(set(found.values()))}
                print(f"{suite} {name} the pack: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
            worse = [test for test in before if after.get(test) != before[test] in ("passed", "skipped")]
            broken += len(worse) + (not before)
            for test in worse:
                print(f"  with the pack only: {test} ({before[test]} -> {after.get(test)})")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main(Path(os.environ["COMFYUI_PATH"]), int(sys.argv[1])))
