"""README and docs/: what they link to and what they tell people to run is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w./])(?:[\w-]+/)+[\w-]+\.(?:py|json|png|jpg|yml)\b")
VERB = re.compile(r"python dev\.py ([a-z][a-z-]*)")
BENCHMARK = re.compile(r"python dev\.py bench (\w+)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(path):
    return path.read_text(encoding="utf-8")


def prose(page):
    """The text in one line, because commands may be wrapped."""
    return " ".join(read(page).split())


def anchors(page):
    """The anchors that a code host gives to headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_and_pictures_lead_somewhere(page):
    broken = []
    for link in LINK.findall(read(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" in link or target.is_file() and (not anchor or anchor in anchors(target)):
            continue
        broken.append(link)
    assert not broken


@every_page
def test_files_that_a_page_names_are_there(page):
    places = (ROOT, ROOT / "trce_ops")  # docs/development.md names modules from there
    named = set(FILE.findall(LINK.sub("", prose(page))))
    assert not {name for name in named if not any((place / name).is_file() for place in places)}


@every_page
def test_commands_are_verbs_of_dev_py_and_benchmarks(page):
    verbs = set(VERB.findall(read(ROOT / "dev.py")))
    benchmarks = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in read(path)}
    assert set(VERB.findall(prose(page))) <= verbs
    assert set(BENCHMARK.findall(prose(page))) <= benchmarks


def test_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) <= 250


def test_readme_has_a_line_for_every_node():
    sources = [path for path in (ROOT / "nodes").rglob("*.py")]
    ids = {node_id for path in sources for node_id in re.findall(r"\"(TRCE[A-Z]\w*)\"", read(path))}
    rows = re.findall(r"^\| \[[^\]]+\]\(nodes/web/docs/(\w+)\.md\) \(`(\w+)`\) \|", read(ROOT / "README.md"), re.M)
    assert ids
    assert all(page == node_id for page, node_id in rows)
    assert ids <= {node_id for _, node_id in rows}
