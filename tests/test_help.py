"""The help pages: one for every node, which says what tooltips do not say, and nothing that is not so."""

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


def parts(node):
    """The inputs of a node, also those that a choice opens, and its outputs."""
    schema = node.define_schema()
    opened = [i for part in schema.inputs for option in getattr(part, "options", None) or () for i in inner(option)]
    return [*schema.inputs, *opened], schema.outputs


def inner(option):
    return getattr(option, "inputs", ())


def names(node):
    """What a page may call a part of a node by."""
    schema = node.define_schema()
    for part in schema.inputs:
        yield part.id
        for option in getattr(part, "options", None) or ():
            yield from (f"{part.id}.{i.id}" for i in inner(option))
    yield from (part.display_name for part in schema.outputs)


def test_every_node_has_a_page_that_says_when_to_use_it_how_and_what_goes_wrong(pack, pages):
    missing = []
    for node_id, node in pack.nodes.items():
        schema, page = node.define_schema(), pages.get(node_id, "")
        if not page.startswith(f"# {schema.display_name}\n"):
            missing.append(f"nodes/web/docs/{node_id}.md that begins with '# {schema.display_name}'")
        wanted = ["When to use it", "Example", "What goes wrong"]
        if any(output.display_name == "report" for output in schema.outputs):
            wanted.append("What the report says")
        missing += [f"{node_id}.md: {title}" for title in wanted if f"\n## {title}\n" not in page]
    assert not missing, "Missing in the help pages:\n" + "\n".join(missing)
    assert pages.keys() == pack.nodes.keys()


def test_no_page_explains_an_input_that_is_not_there(pack, pages):
    """What a page sets in code, if it looks like a name of a part, is one of its own node's or of a node it names."""
    for node_id, page in pages.items():
        known = {"max_length"}  # of Generate Text
        for node in pack.nodes.values():
            if node is pack.nodes[node_id] or f"**{node.define_schema().display_name}**" in page:
                known |= set(names(node))
        code = re.findall(r"`([a-z]+(?:_[a-z]+)*(?:\.[a-z_]+)?)`", page)
        assert [name for name in code if name not in known] == [], node_id


def test_no_page_says_what_a_tooltip_says(pack, pages):
    for node_id, page in pages.items():
        inputs, outputs = parts(pack.nodes[node_id])
        for part in (*inputs, *outputs):
            for sentence in re.split(r"(?<=\.) ", part.tooltip):
                assert len(sentence) < 40 or sentence not in page, f"{node_id}.md repeats a tooltip: {sentence}"


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
