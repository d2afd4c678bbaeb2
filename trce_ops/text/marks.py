"""Patterns for the syntax around a text: arrows, quotes, bullets, comments and weights, from any keyboard."""

from __future__ import annotations

import re
import unicodedata

from .orders import NEGATION, ORDER
from .spelling import HANGUL, UNSPACED

_NAMES = {
    chr(c): unicodedata.name(chr(c), "")
    for first, last in ((0x2190, 0x2200), (0x2794, 0x27C0), (0x27F0, 0x2C00), (0xFFE9, 0xFFED), (0x1F800, 0x1F900))
    for c in range(first, last)
}
_ARROWS = {c: name for c, name in _NAMES.items() if re.search("ARROW|HARPOON", name)}
RIGHT = "".join(c for c, name in _ARROWS.items() if "RIGHT" in name and "LEFT" not in name)
OTHER_ARROWS = "".join(_ARROWS.keys() - set(RIGHT))
DASH = "-=~\u2010-\u2015\u2212\u2500\u2501\u30fc\ufe58\ufe63"
HEAD = ">\u203a\u00bb\u25b6\u25b7\u25b8\u25ba\u226b\u27e9\u276f\u2771\u3009\u300b\ufe65"
# '>' alone, between spaces, is an arrow too: between two names it has no other meaning. Elsewhere it is refused.
SPLIT = rf"(?:\s*(?:[{DASH}]+\s?[{HEAD}]+|[{RIGHT}]\ufe0f?)|(?<=\s)[{HEAD}]{{1,3}}\ufe0f?(?=\s))\s*"

DOUBLE = '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u3008-\u3011\u3014-\u301b\u301d\u301e\u301f`'
SINGLE = "'\u2018\u2019\u201a\u201b"
QUOTED = re.compile(
    rf"(^\s*|[|{{(\[,]\s*|{SPLIT})"
    rf"(?:[{DOUBLE}]([^{DOUBLE}]+)[{DOUBLE}]|\*{{1,3}}([^*]+)\*{{1,3}}"
    rf"|[{SINGLE}]((?:[^{SINGLE}]|(?<=\w)[{SINGLE}](?=\w))+)[{SINGLE}])"
    rf"(?=\s*(?:$|[|}})\],;]|:\s*[-+]?[\d.]|{SPLIT}))"
)
SEVERAL = re.compile(rf"[{DOUBLE}{SINGLE}]\s*,\s*[{DOUBLE}{SINGLE}]")  # texts in quotation marks
COMMENT = re.compile(r"/\*.*?\*/|(?:^|(?<=\s))(?:#|//).*")  # not the # of "C#", nor the // of a web address
BULLET = re.compile(
    r"(?:>\s+|[-*+\u2013\u2014\u2212]\s+|[\u2022\u2023\u25e6\u25cf\u25cb\u25aa\u25a0\u25a1\u25c6\u25c7\u25b6\u25b8\u25ba"
    r"\u2043\u00b7\u30fb\u2605\u2606\u2610\u2611\u2713\u2714\u2705]\ufe0f?\s*|"
    rf"\(?\d{{1,3}}[.)](?!{SPLIT})\s*(?=[^\W\d]|[^\w\s.)])"
    r"|\d{1,3}\u3001|"
    r"\(?[a-zA-Z]\)\s+|\d\ufe0f?\u20e3\s*|[\u2460-\u2473\u2776-\u277f]\s*|\[[ xX\u2713]?\]\s+){0,3}"
)
NUMBER = r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)\s*"
WEIGHT = re.compile(rf"\(([^()\[\]]*?)\s*[:\uff1a]\s*{NUMBER}\)|\[([^()\[\]:]*?)\s*[:\uff1a]\s*{NUMBER}\]")
EMPHASIS = re.compile(rf"\(\(([^()]*)\)\s*[:\uff1a]\s*{NUMBER}\)|\({{2,}}([^()]*)\){{2,}}|\[{{2,}}([^\[\]]*)\]{{2,}}")
WRAPPED = re.compile(r"\s*(?:\(([^()]*)\)|\[([^\[\]]*)\])\s*")

EAST = f"{UNSPACED}{HANGUL}"
KANJI = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

JOINED = (r"\b(?:AND|OR|BREAK)\b(?=.*[a-z])|[a-z].*\b(?:AND|OR|BREAK)\b", "joins prompts; write a line for each")
# What is refused in any text, in captions to keep, in names of concepts and safe targets: (pattern, what to say).
REFUSED = (
    (r"\w+://|\bwww\.", "has a web address in it; write words"),
    (r"<\w+:[^>]*>|(?<!\S)__[\w/*-]+?__(?!\S)|\$\$", "has a LoRA or a wildcard in it; write words"),
    (rf"[{RIGHT}{OTHER_ARROWS}]|[{DASH}<]+[{HEAD}]|<[{DASH}]", "has an arrow that is not '->'; write '->'"),
    (r"&#?\w+;", "has a code of HTML in it; write the sign itself"),
    (r"[()]", r"has brackets in it; leave them out, or write \( and \) where they belong to the name"),
    (r"[\[\]]", r"has brackets in it; leave them out, or write \[ and \] where they belong to the name"),
    (r"[{}]", r"has an unmatched brace; leave it out, or write \{ or \} where it belongs to the name"),
    (r"\\", r"has a backslash in it; leave it out, or write \\ where it belongs to the name"),
)
REFUSED_IN_CAPTIONS = (
    JOINED,
    (r"\t", "has a tab in it; write a line for each caption"),
    (r":\s*[-+]?[\d.]+%?$|^\w+:\s|:\s+an?\s", "has a colon in it; leave it out, or put the caption in quotation marks"),
)
REFUSED_IN_NAMES = (
    (r"(?i)\bembedding:\S", "names a textual inversion, which is not text; write words"),
    (
        r"(?:(?<=\w\w)\+{2,}|[^\W\d]\s*[*^@\u00d7]\s*\d*[.,]?\d+|\s[x\u00d7]?\d*[.,]\d+|\s\d+\s?%)$",
        "ends with a weight; leave it out, or put the name in quotation marks where that belongs to it",
    ),
    (
        rf"(?<!\d)[{HEAD}](?=\w)|[\U0001f449\u261e\u261b\u23e9\u23ed\u23ef]|[^\W\d][\u2013-\u2015]|[\u2013-\u2015](?=[^\W\d])|\s--?\w",
        "has a sign that could be an arrow; write '->', or put the name in quotation marks",
    ),
    (r"\t| {2}", "has a tab or many spaces in it; write '->' between a concept and its safe target"),
    (r"[<>=]", r"has '<', '>' or '=' in it; write '->' as the arrow, or put the name in quotation marks"),
    (
        rf"\s(?:[{DASH}+/:\u2026]|\.{{2,}})+\s",
        "has punctuation between spaces; write '|' between names and '->' before a safe target, or put the name in "
        "quotation marks",
    ),
    (
        r"(?<!\d)[:\uff1a]|[:\uff1a](?!\d)",
        "has a colon in it; write '->' before a safe target and '#' before a comment, or put the name in quotation "
        "marks",
    ),
    JOINED,
    (
        ORDER,
        "reads like an order; write 'concept -> safe', or put the name in quotation marks",
    ),
    (
        rf"(?i)[^\W\d_]{{3}}[/\uff0f][^\W\d_]{{3}}|[{EAST}]\s?[/\uff0f]\s?[^\W\d_]|[^\W\d_]\s?[/\uff0f]\s?[{EAST}]"
        rf"|[\u30fb\uff65]\s?[{KANJI}]|\s(?:or|oder|ou|aka|a\.k\.a\.)\s|\s\d{{1,2}}[.)]\s",
        "has several names in it; write '|' between names, or put the whole in quotation marks where it is one concept",
    ),
    (
        rf"^[{DOUBLE}]|^[{SINGLE}].*[{SINGLE}](?!\w)|^[^{DOUBLE}]*[^\d{DOUBLE}][{DOUBLE}]$",
        "has a quotation mark on one side; put marks around the whole name, or write \\ before one that belongs to it",
    ),
    (r"^[a-z]\.\s", "begins with a letter and a full stop; leave it out, or put the name in quotation marks"),
    (
        r"^[-!#%*+,/:;<=>?_|~\u2010-\u2015\u2212]|[-:=<>/*&\u2010-\u2015\u2212]$",
        "begins or ends with punctuation; leave it out, or put the name in quotation marks",
    ),
)
REFUSED_IN_CONCEPTS = (
    (NEGATION, "reads like an order; write the name alone, or put it in quotation marks where that belongs to it"),
)
COLUMNS = re.compile(r"(?<=[\w.!?+%'\")])[^\S\t]{3,}(?=[\w'\"(])")  # spaces between two words
LIST = re.compile(r"[,;\uff0c\uff1b\u3001\u060c\u061b]")
TAGGED = re.compile(r"\d\+?(?:girl|boy|other)s?\b")  # begins a prompt in tags, "1girl, holding gun": one concept


def without_bullet(text: str) -> str:
    """The text without the bullets and numbers that it begins with."""
    return BULLET.sub("", text, count=1)
