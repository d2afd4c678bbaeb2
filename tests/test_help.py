"""The help pages: one for every node, with every input and output in it, and nothing in them that is not so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "nodes" / "web" / "docs"
MESSAGE = re.compile(r"^- \*\*(\".+?\")\*\*", re.M)


@pytest.fixture(scope="module")
def pages():
    return {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}


@pytest.fixture(scope="module")
def sources():
    """What the pack's code says, with sentences that go over several lines in one piece."""
    files = [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "trce_ops").rglob("*.py")]
    return "\n".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in files)


def test_every_node_has_a_page_that_names_all_its_inputs_and_outputs(pack, pages):
    missing = []
    for node_id, node in pack.nodes.items():
        schema, page = node.define_schema(), pages.get(node_id, "")
        if not page.startswith(f"# {schema.display_name}\n"):
            missing.append(f"nodes/web/docs/{node_id}.md that begins with '# {schema.display_name}'")
        missing += [
            f"{node_id}.md: a table row for input '{i.id}'" for i in schema.inputs if f"\n| `{i.id}` | " not in page
        ]
        named = page[page.find("\n## Output") :]
        missing += [
            f"{node_id}.md: output '{o.display_name}'" for o in schema.outputs if f"`{o.display_name}`:" not in named
        ]
        if "## What goes wrong" not in page:
            missing.append(f"{node_id}.md: What goes wrong")
    assert not missing, "Missing in the help pages:\n" + "\n".join(missing)
    assert pages.keys() <= pack.nodes.keys()


def test_no_page_explains_an_input_that_is_not_there(pack, pages):
    for node_id, page in pages.items():
        rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
        assert rows == [i.id for i in pack.nodes[node_id].define_schema().inputs]


def test_pictures_are_there_small_and_in_use(pages):
    used = {name for page in pages.values() for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)}
    pictures = {path.name for path in DOCS.iterdir() if path.suffix != ".md"}
    assert used == pictures
    assert sum((DOCS / name).stat().st_size for name in pictures) < 400_000


def test_messages_that_pages_quote_are_ones_that_the_pack_says(pages, sources):
    quoted = 0
    for node_id, page in pages.items():
        for line in MESSAGE.findall(page):
            for message in re.findall(r'"([^"]+)"', line):
                for part in filter(None, (part.strip(" .") for part in message.split("..."))):
                    assert len(part) >= 10, f"{node_id}.md: '{part}' is too short to be looked for"
                    pattern = re.escape(part).replace(r"\ ", r"\s+")
                    pattern = re.sub(r"\d+", r"(?:\\d+|\\{[^}]+\\})", pattern)  # numbers are filled in
                    assert re.search(pattern, sources), f"{node_id}.md: {part}"
                    quoted += 1
    assert quoted > 10
