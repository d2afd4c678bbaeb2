"""Reads the list in a language model's answer, and says what of the answer it does not understand.

Understood are lines as the widgets have them, also with bullets or numbers and in one code fence; JSON lists of strings
or of pairs, in the layouts that people use; tables and CSV whose head names the columns; LECO's YAML. In a list with
bullets or numbers, lines without one are talk; elsewhere a line that ends like a sentence is. Nothing else is guessed:
a line that is read wrongly would be erased without a word.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence

from ..text.concept_line import clean
from ..text.marks import BULLET
from .records import ALIASES, ERASE, KEEP, KNOWN, LECO, Item, Reader, field
from .records import MAX_ITEMS as MAX_ITEMS

ASK_FOR_CONCEPTS = (
    "Answer with one line per concept and nothing else. Write each line as 'concept -> safe alternative', such as "
    "'a gun -> an umbrella'. No numbers, no quotation marks, no explanations."
)
ASK_FOR_CAPTIONS = (
    "Answer with one short caption per line and nothing else. No numbers, no quotation marks, no full stops, no "
    "explanations."
)
MAX_ANSWER = 100_000  # characters that are read
MAX_LINES = 2000
MAX_DEPTH = 12  # of brackets in JSON

THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)|\A.*</(?:think|thinking|reasoning)>", re.S | re.I)
FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z)", re.S | re.M)
JSON = re.compile(r'[\[{](?=[\[{\s]{0,100}")')
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
HEADING = re.compile(r"#{1,6}\s.*|.*[:\uff1a][\s*_]*")
BOLD = re.compile(r"(\*\*|__)[^*_]+\1")
SENTENCE = re.compile(r".*[.!?\u3002\uff01\uff1f][\s*_\"'\u201d\u2019)]*")
RULE = re.compile(r"[\s|:+-]*-{2,}[\s|:+-]*")
YAML = re.compile(r"\s*(-\s+)?[\"']?([A-Za-z][\w -]{0,30})[\"']?:(?:\s+(.*))?")


def read_answer(answer: str, names: Sequence[str] = (), captions: bool = False) -> tuple[Item, ...]:
    """The items of an answer, each once. names: what was asked about; captions: for the keep list."""
    return tuple(_read(answer, names, captions).items.values())


def not_understood(answer: str, names: Sequence[str] = (), captions: bool = False) -> tuple[str, ...]:
    """The pieces of an answer that read_answer leaves out, for the report."""
    return _read(answer, names, captions).not_understood()


def _read(answer: str, names: Sequence[str], captions: bool) -> Reader:
    reader = Reader(names, captions)
    text = "\n".join(answer[:MAX_ANSWER].splitlines()[:MAX_LINES])
    if len(answer) > MAX_ANSWER or answer.count("\n") > MAX_LINES:
        reader.reject(f"what comes after the first {MAX_ANSWER} characters or {MAX_LINES} lines")
    for thought in THINKING.finditer(text):
        if not thought[0].endswith(">"):  # without an end
            reader.reject(thought[0])
    text = THINKING.sub("", text)
    fences = list(FENCE.finditer(text))
    if len(fences) == 1:
        fence = fences[0]
        _reject_lines(reader, text[: fence.start()] + text[fence.end() :])
        text = fence[1]
    if len(fences) > 1:
        _reject_lines(reader, text)
    elif found := JSON.search(text):
        _reject_lines(reader, text[: found.start()])
        _read_json(reader, text[found.start() :])
    elif not _read_table(reader, text) and not _read_yaml(reader, text):
        _read_lines(reader, text, sure=bool(fences))
    return reader


def _reject_lines(reader: Reader, text: str) -> None:
    for line in text.splitlines():
        if re.search(r"\w", line):
            reader.reject(line)


def _read_json(reader: Reader, text: str) -> None:
    """One JSON value, or several as the rows of a list, and the talk behind them."""
    if _depth(text) > MAX_DEPTH:
        return reader.reject(text)
    values, end = [], 0
    while end < len(text) and text[end] in "[{":
        try:
            value, end = json.JSONDecoder(object_pairs_hook=_object).raw_decode(text, end)
        except ValueError:
            reader.reject(text[end:])
            end = len(text)
        else:
            values.append(value)
            end = re.compile(r"[\s,]*").match(text, end).end()
    _reject_lines(reader, text[end:])
    reader.value(values[0] if len(values) == 1 else values)


def _object(fields: list[tuple[str, object]]) -> dict[str, object]:
    """Raises ValueError for a field that is there twice, of which JSON would keep the last."""
    found = dict(fields)
    if len(found) < len(fields):
        raise ValueError
    return found


def _depth(text: str) -> int:
    """How deep brackets stand within each other."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _cells(line: str, delimiter: str) -> list[str]:
    line = line.strip().strip("|") if delimiter == "|" else line
    return [cell.strip().strip("*") for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _read_table(reader: Reader, text: str) -> bool:
    """A table with a head of known names, as Markdown or CSV, up to a blank line. False where there is none."""
    lines = [line.replace("\0", "") for line in text.splitlines()]
    for number, line in enumerate(lines):
        for delimiter in "|\t;,":
            if delimiter in line and len(line) < 1000:
                names = [field(cell) for cell in _cells(line, delimiter)]
                if {*names} <= KNOWN and {*names} & {*reader.concepts} and len({*names}) == len(names):
                    _reject_lines(reader, "\n".join(lines[:number]))
                    _read_rows(reader, names, lines[number + 1 :], delimiter)
                    return True
    if any("|" in line and RULE.fullmatch(line) for line in lines):  # a table whose columns could be anything
        _reject_lines(reader, text)
        return True
    single = next((line for line in lines if line.strip()), "")
    if field(single) in (KEEP if reader.captions else (*ERASE, *ALIASES)) and len(lines) > 1:
        reader.reject(single)  # the head of a table with one column
        _read_lines(reader, text.partition(single)[2], sure=False)
        return True
    return False


def _read_rows(reader: Reader, names: Sequence[str], lines: Sequence[str], delimiter: str) -> None:
    rows, rest = [], iter(lines)
    for line in rest:
        if not line.strip():
            break
        cells = _cells(line, delimiter) if len(line) < 10_000 else []
        if len(cells) == len(names):
            rows += [] if RULE.fullmatch(line) else [dict(zip(names, cells))]
        else:
            reader.reject(line)
    reader.rows(rows)
    _reject_lines(reader, "\n".join(rest))


def _read_yaml(reader: Reader, text: str) -> bool:
    """Entries of `field: value` lines, each begun by a dash or a field that it has already. False where none is."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = [YAML.fullmatch(line[:1000]) for line in lines]
    known = [m for m in found if m and m[3] and field(m[2]) in {*reader.concepts, *LECO}]
    if not known or 2 * sum(map(bool, found)) <= len(lines):
        return False
    entries: list[dict[str, str]] = []
    for line, m in zip(lines, found):
        if not m or not m[3]:
            reader.reject(line)
            continue
        value = re.fullmatch(r"\"([^\"]*)\"(?:\s+#.*)?|'([^']*)'(?:\s+#.*)?|(.*?)(?:\s+#.*)?", m[3].strip())
        if not entries or m[1] or m[2] in entries[-1]:
            entries.append({})
        entries[-1][m[2]] = next((part for part in value.groups() if part is not None), "") if value else m[3]
    reader.rows(entries)
    return True


def _read_lines(reader: Reader, text: str, sure: bool) -> None:
    """Lines as the widgets have them. sure: all of them belong to the list."""
    about = ""
    for line, marked, listed in _marked(text):
        heading = HEADING.fullmatch(line) or listed and not marked and BOLD.fullmatch(line)
        if heading and ((about := reader.about(line)) or line.startswith("#")):
            continue
        if heading or listed and not marked or not sure and not marked and SENTENCE.fullmatch(line):
            reader.reject(line)
        else:
            reader.line(line.rstrip(" .;,"), about)


def _marked(text: str) -> Iterator[tuple[str, bool, bool]]:
    """(line, whether it has a bullet or a number, whether any line has)."""
    lines = [line[:2000].strip() for line in text.splitlines() if re.search(r"\w", line)]
    marked = [BULLET.match(clean(line)).end() > 0 for line in lines]
    for line, mark in zip(lines, marked):
        yield line, mark, any(marked)
