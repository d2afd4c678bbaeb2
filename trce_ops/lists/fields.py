"""The names that a language model gives the fields of an answer, and the lines in which they are heads of columns."""

from __future__ import annotations

import re

LONGEST = 120  # characters of a line that may be a row of heads

# Names of fields in JSON: of a concept, of its safe target, of a caption to keep, and of what is left out.
CONCEPT = {*"concept erase remove original source from old unsafe name term word synonym alias".split()}
SAFE = {*"safe safe_alternative safe_target alternative replacement replace_with substitute target with to new".split()}
CAPTION = {*"keep caption text prompt sentence".split()}
OTHER = {*"item description definition explanation reason note category type id number score color colour".split()}
KEYS = CONCEPT | SAFE | CAPTION | OTHER

ENTRY = re.compile(r"\s*(?:-\s+)?[\"']?([A-Za-z][\w -]{0,30})[\"']?:\s+\S.*")  # of YAML
NESTED = re.compile(r"\s*-\s+-\s.*")  # a list in a list of YAML


def field(name: str) -> str:
    """The name of a field as KEYS has it: "Safe Targets" is "safe_target"."""
    name = re.sub(r"[\s_-]+", "_", name.strip().lower())
    return name if name in KEYS else name.removesuffix("s")


def is_head(*cells: str) -> bool:
    """Whether the cells of a row are the names of columns: "Unsafe term", "Safe term"."""
    return all(field(word) in KEYS for cell in cells for word in re.split(r"[\s_-]+", cell.lower()))


def in_columns(line: str) -> bool:
    """Whether the line is the head of a table or of CSV, the rule below a head, or an entry of YAML."""
    if len(line) > LONGEST:
        return False
    entry = ENTRY.fullmatch(line)
    if NESTED.fullmatch(line):
        return True
    cells = re.split(r"[|\t;,]", line.strip().strip("|"))
    rule = "|" in line and "--" in line and not line.strip(" \t|:+-")
    return rule or all(field(cell) in KEYS for cell in cells) or bool(entry and field(entry[1]) in KEYS)
