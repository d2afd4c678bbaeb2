#!/usr/bin/env python3
"""Set up a real ComfyUI beside the pack, and run, test and measure the pack in it.

    python dev.py demo [--output DIR]                 before/after pictures, the delta and a table from the demo model
    python dev.py test [pytest arguments]             lint, then the tests against real ComfyUI, in parallel
    python dev.py serve [--port N]                    open ComfyUI with the pack and the demo model in place
    python dev.py run WORKFLOW.json [--output DIR]    run one API-format workflow without the UI
    python dev.py bench NAME [arguments]              run benchmarks/NAME.py
    python dev.py lint                                style, types, layers and the registry's and comfy-test's checks
    python dev.py comfyui-tests                       ComfyUI's own tests, without the pack and with it
    python dev.py train-demo [--status]               train the demo model; says what is done, goes on where it stopped

Python 3.10 and a network connection are all that is needed: the first use makes .host/ (a virtual environment and
ComfyUI) and takes a few minutes, later ones start at once. With --offline nothing is downloaded. With --host VERSION
another ComfyUI, one of those listed in tools/pins.py, is set up beside the usual one and used.

Environment variables:
    COMFYUI_PATH            use this ComfyUI; nothing is put into it but a link to the pack in custom_nodes
    COMFYUI_PYTHON          the Python that runs that ComfyUI (default: the one that runs dev.py)
    COMFYUI_TRCE_HOST_DIR   where .host stands, for example to share one between clones (used by one of them at a time)
    COMFYUI_TRCE_BROWSER    the Chromium or Chrome of the browser tests, or "none" to leave those tests out
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit(f"dev.py: Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

from tools import verbs
from tools.installation import Installation
from tools.lint import lint
from tools.pins import HOSTS
from tools.process import DevError
from tools.steps import set_up

# What a verb needs beside ComfyUI: groups of pyproject.toml
GROUPS = {
    "test": ("test", "lint", "bench"),
    "bench": ("bench",),
    "lint": ("lint",),
    "comfyui-tests": ("test", "comfyui-tests"),
    "train-demo": ("train",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the host before we go
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--offline", action="store_true", default=argparse.SUPPRESS, help="download nothing")
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    names = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in ("demo", "test", "serve", "run", "bench", "lint", "comfyui-tests", "train-demo"):
        verb = names.add_parser(name, parents=[common], allow_abbrev=False)
        if name != "lint":
            verb.add_argument("--host", choices=HOSTS, metavar="VERSION")
        if name == "run":
            verb.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
        if name in ("run", "demo"):
            verb.add_argument("--output", type=Path, metavar="DIR", default=Path(f"{name}_output"))
        if name == "serve":
            verb.add_argument("--port", type=int, default=8188)
    options, rest = parser.parse_known_args(arguments, argparse.Namespace(offline=False, host=None))
    if rest and options.verb not in ("test", "bench", "train-demo"):
        parser.error(f"unknown arguments: {' '.join(rest)}")

    host = Installation.from_environment(options.host)
    groups = GROUPS.get(options.verb, ())
    if options.verb == "lint":
        set_up(host.steps(groups), host.host_dir, options.offline)
        return lint(host)
    host.prepare(groups, options.offline, controlnet=options.verb != "demo")
    actions = {
        "demo": lambda: verbs.demo(host, options.output),
        "test": lambda: verbs.test(host, rest),
        "serve": lambda: verbs.serve(host, options.port),
        "run": lambda: verbs.run(host, options.workflow, options.output),
        "bench": lambda: verbs.bench(host, rest),
        "comfyui-tests": lambda: verbs.comfyui_tests(host),
        "train-demo": lambda: verbs.train_demo(host, rest),
    }
    return actions[options.verb]()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DevError as problem:
        sys.exit(f"dev.py: {problem}")
    except KeyboardInterrupt:
        print("\ndev.py: interrupted", file=sys.stderr)
        sys.exit(130)
