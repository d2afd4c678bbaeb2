"""The nodes in other languages: nothing missing, nothing left over, and nothing lost on the way.

English is taken from the schemas with `TRCE_UPDATE_GOLDEN=1 pytest tests/test_locales.py`. Every other language is
written by hand; the first test lists what it lacks.
"""

import json
import os
import re
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parent.parent / "locales"
LANGUAGES = ("zh", "ja", "ko", "de", "fr")
SYNTAX = re.compile(r"[{}|@]|\$t")  # what vue-i18n, which shows these texts, would not show as it stands


def read(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def inputs(schema):
    """What the frontend looks up for the inputs of a node. Of those that a choice opens it looks up the names alone."""
    for part in schema.inputs:
        yield part.id, {"name": part.display_name or part.id, "tooltip": part.tooltip}
        for option in getattr(part, "options", None) or ():
            for inner in getattr(option, "inputs", ()):
                yield f"{part.id}_{inner.id}", {"name": inner.id}


def english(schema):
    """What the frontend looks up for a node."""
    outputs = {str(i): {"name": o.display_name, "tooltip": o.tooltip} for i, o in enumerate(schema.outputs)}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": dict(inputs(schema)),
        **({"outputs": outputs} if outputs else {}),
    }


def leaves(tree, path=()):
    """Every text of a tree, by its path."""
    if isinstance(tree, str):
        return {path: tree}
    return {p: text for key, part in tree.items() for p, text in leaves(part, (*path, key)).items()}


@pytest.fixture(scope="module")
def schemas(pack):
    return {node_id: node.define_schema() for node_id, node in pack.nodes.items()}


@pytest.fixture(scope="module")
def wanted(schemas):
    return leaves({node_id: english(schema) for node_id, schema in schemas.items()})


def test_english_is_what_the_schemas_say(schemas, wanted):
    if os.environ.get("TRCE_UPDATE_GOLDEN"):
        texts = {node_id: english(schema) for node_id, schema in schemas.items()}
        (LOCALES / "en" / "nodeDefs.json").write_text(json.dumps(texts, indent=2) + "\n", encoding="utf-8")
    assert leaves(read("en")) == wanted


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_missing_and_nothing_left_over(wanted, language):
    given = leaves(read(language))
    missing = [f"missing: {'.'.join(path)}: {text}" for path, text in wanted.items() if not given.get(path, "").strip()]
    left_over = [f"left over: {'.'.join(path)}" for path in given.keys() - wanted.keys()]
    problems = missing + left_over
    assert not problems, f"locales/{language}/nodeDefs.json:\n" + "\n".join(problems)


def test_there_are_no_other_files():
    files = {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*") if path.is_file()}
    assert files == {f"{language}/nodeDefs.json" for language in ("en", *LANGUAGES)}


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_texts_are_shown_as_they_stand(language):
    assert not [f"{'.'.join(path)}: {text}" for path, text in leaves(read(language)).items() if SYNTAX.search(text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_signs_choices_and_names_of_widgets_are_kept(schemas, wanted, language):
    given = leaves(read(language))
    problems = []
    for (node_id, *path), text in wanted.items():
        translation = given.get((node_id, *path), "")
        schema = schemas[node_id]
        expected = set(re.findall(r"\d+(?:\.\d+)?|->|'#'", text.replace("77 tokens", "77")))
        for quoted in re.findall(r"'([^']+)'", text):
            if any(quoted == i.id for i in schema.inputs):
                expected.add(given[node_id, "inputs", quoted, "name"])
            elif any(quoted in str(option) for i in schema.inputs for option in getattr(i, "options", None) or ()):
                expected.add(quoted)
        lacking = [part for part in expected if part.strip("'") not in translation]
        if path[-1] == "tooltip" and path[0] == "inputs" and not translation.endswith(f"[{path[1]}]"):
            lacking.append(f"[{path[1]}] at its end, which messages and help pages call it by")
        if path[-1] in ("tooltip", "description") and translation == text:
            lacking.append("a translation")
        problems += [f"{'.'.join((node_id, *path))}: {part}" for part in lacking]
    assert not problems, f"Lacking in locales/{language}/nodeDefs.json:\n" + "\n".join(problems)


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_thing_has_one_name_within_a_node(schemas, language):
    texts = read(language)
    for node_id in schemas:
        names = [part["name"] for part in texts[node_id]["inputs"].values() if "tooltip" in part]
        assert len(set(names)) == len(names)
    assert len({texts[node_id]["display_name"] for node_id in schemas}) == len(schemas)
