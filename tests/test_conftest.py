"""The tests' own rule for what an older ComfyUI lacks."""

from pathlib import Path
from types import FunctionType

import pytest


@pytest.mark.parametrize(
    ("file", "own"),
    [("nodes/host/apply.py", True), ("trce_ops/delta/file.py", True), ("tests/test_weight_patch.py", False)],
)
def test_only_what_a_test_itself_uses_may_be_absent(request, file, own):
    """The same error from the pack's code is a break, and no reason to skip."""
    tests = Path(__file__).parent
    conftest = request.config.pluginmanager.get_plugin(str(tests / "conftest.py"))
    code = compile("raise AttributeError(\"module 'comfy.lora' has no attribute 'x'\")", tests.parent / file, "exec")
    with pytest.raises(AttributeError) as raised:
        FunctionType(code, {})()
    assert conftest.through_the_pack(raised.value) == own
