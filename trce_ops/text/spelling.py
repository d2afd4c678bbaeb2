r"""Whether a text names a concept, in any spelling.

The same name is typed as a tag, with another hyphen, with or without accents, in full-width letters, in the plural, or
in a script without spaces. A keep caption that names a concept weakens the erasure, and dropping a caption by mistake
costs almost nothing, so doubtful cases count as naming it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# Scripts that are written without spaces between words: CJK and its extensions, kana, Bopomofo, Thai, Lao, Tibetan,
# Burmese, Khmer, Tai. A word may begin or end anywhere in them.
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u2e80-\u312f\u31a0-\u31ff"
    "\u3400-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U00020000-\U0003ffff"
)
AFFIXED = "\u0590-\u06ff"  # Hebrew and Arabic attach articles and prepositions
CYRILLIC = "\u0400-\u04ff"
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"  # Korean has spaces, but particles are attached to words
LETTER = rf"[^\W\d_{UNSPACED}]"
# Accents of Latin, Greek and Cyrillic, vowel points of Hebrew and Arabic, and variation selectors.
MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0640\u064b-\u065f\u0670\ufe00-\ufe0f]")
APOSTROPHES = re.compile("[\u2018\u2019\u201b\u02bb\u02bc\u02be\u02bf\u2032\u00b4`]")
SPACES = re.compile(
    r"[\s_\u00b7\u2022\u2027\u30a0\u30fb\u318d\u2010-\u2015\u2043\u2212-]+"
)  # "machine-gun" is "machine gun"
JOINS = re.compile(rf"(?!\s)(?:{SPACES.pattern[:-1]}|{APOSTROPHES.pattern}|['/])")  # and "machinegun"
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # "holdingGun"
UMLAUTS = re.compile("([\u00e4\u00f6\u00fc\u00c4\u00d6\u00dc])")  # "Maedchen" is "M\u00e4dchen"
KATAKANA = "[\u30a1-\u30fa]"
BETWEEN = re.compile(rf"(?<=\w)\.(?=[^\W\d])|(?<={KATAKANA})=(?={KATAKANA})")  # "Mr.Bean"
LONG = re.compile(f"(?<=[\u30a1-\u30fc]{KATAKANA})\u30fc(?![\u30a1-\u30fc])")  # at the end of a word, as some write it
INITIALS = re.compile(r"(?<=\b[a-z]) (?=[a-z]\b)")  # "H. R. Giger" is "HR Giger"
DOTS = re.compile(r"(?<=\b\w)\.|(?<=\w)\.(?=\s|$)")  # of abbreviations and at the end
# Letters that Unicode does not take apart into a plain one and an accent; hiragana as katakana.
LETTERS = str.maketrans(
    {"\u0142": "l", "\u00f8": "o", "\u0111": "d", "\u00f0": "d", "\u00fe": "th", "\u0131": "i", "\u00e6": "ae"}
    | {"\u0153": "oe", "&": " and ", "\u06cc": "\u064a", "\u06a9": "\u0643"}
    | {chr(c): chr(c + 0x60) for c in range(0x3041, 0x3097)}
)

BRITISH = [
    (re.compile(rf"(?<=[a-z]{{{before}}}){british}(?=(?:s{more})?\b)"), american)
    for before, british, more, american in (
        (3, "our", "|ed|ful|ites?|able|hoods?|y|ies", "or"),
        (3, "llery", "", "lry"),
        (2, "bre", "", "ber"),
        (2, "tre", "", "ter"),
    )
] + [
    (re.compile(rf"\b{british}"), american)
    for british, american in (
        ("grey", "gray"),
        ("moustache", "mustache"),
        ("pyjama", "pajama"),
        ("doughnut", "donut"),
        ("whiskey", "whisky"),
        ("tyre", "tire"),
        (r"axe\b", "ax"),
        ("mould", "mold"),
        ("plough", "plow"),
    )
]
NO_SINGULAR = re.compile(r"\b(?:news|shorts|glasses|pants|jeans|goods|arms)$")
ARTICLES = re.compile(r"^(?:une?|una|uno|uma?|le|les|la|el|los|las|il|eine?n?|der|das|die|des|l'|d')\s?(?=\w\w)")
IRREGULAR = dict(child="children", person="people", mouse="mice", louse="lice", foot="feet", tooth="teeth")
IRREGULAR |= dict(goose="geese", ox="oxen")


def bare(text: str) -> str:
    """The text without the article it begins with."""
    return re.sub(r"^(an?|the)\s+(?=\S)", "", text, flags=re.IGNORECASE)


def same_name(text: str) -> str:
    """Equal for texts that name the same thing: without the article, in lower case."""
    return bare(text).lower()


@lru_cache(8192)
def fold(text: str) -> str:
    """The text with differences of spelling taken out, for comparing."""
    text = APOSTROPHES.sub("'", text)
    text = re.sub(r"\\([()\[\]])", r"\1", text)  # prompts escape brackets, which would be weights
    text = re.sub("[\u2122\u00ae\u00a9]", " ", text)
    text = MARKS.sub("", unicodedata.normalize("NFKD", text))  # first, as capitals may be inside signs
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(c for c in MARKS.sub("", text) if unicodedata.category(c) != "Cf")
    text = BETWEEN.sub(" ", DOTS.sub("", unicodedata.normalize("NFKC", text).translate(LETTERS)))
    text = LONG.sub("", text)
    for british, american in BRITISH:
        text = british.sub(american, text)
    return INITIALS.sub("", SPACES.sub(" ", text).strip())


def _forms(text: str) -> set[str]:
    """The text as it may be folded: "AK-47" is "ak 47" and "ak47", "iPad" is "ipad" and "i pad"."""
    umlauts = UMLAUTS.sub(r"\1e", unicodedata.normalize("NFC", text))
    return {fold(form) for form in (text, JOINS.sub("", text), CAMEL.sub(" ", text), umlauts)}


def mentions(text: str, concepts: Iterable[str], plurals: bool = True) -> bool:
    """Whether the text names one of the concepts as a word of its own, in singular or plural (English, German, French),
    or in a Cyrillic case. plurals: False when only the concept's own form counts.
    """
    pattern = _pattern(tuple(concepts), plurals)
    return pattern is not None and any(map(pattern.search, _forms(text)))


@lru_cache(1024)
def _pattern(concepts: tuple[str, ...], plurals: bool) -> re.Pattern[str] | None:
    names = {bare(form) or concept.casefold() for concept in concepts for form in _forms(concept)}
    names |= {ARTICLES.sub("", name) for name in names}
    if plurals:
        names |= {singular for name in names for singular in _singulars(name)}
    words = [_word(name, plurals) for name in sorted(names) if name]
    words += _plurals_abroad(concepts, names) if plurals else []
    return re.compile("|".join(words)) if words else None


def _plurals_abroad(concepts: tuple[str, ...], names: set[str]) -> list[str]:
    """Patterns for German and French plurals of names, and for what names in such a plural may be the plural of.

    German endings are words of their own in English ("star", "stare"), so a name has to have an article or a capital.
    """
    german = {ARTICLES.sub("", name) for name in names if ARTICLES.match(name)}
    german |= {fold(concept) for concept in concepts if re.fullmatch(r"[^\W\d_a-z]\w+", concept)}
    found = [(name, r"(?:er?n?|n)") for name in german] + [(re.sub(r"(?:er?n?|n)$", "", name), "e?") for name in german]
    found += [(name, "n") for name in names if name.endswith("e")]
    found += [(name, "x") for name in names if name.endswith(("ou", "eu"))]
    found += [(name.removesuffix("x"), "") for name in names if name.endswith(("oux", "eux"))]
    found += [(re.sub("ai?l$", "", name), "aux") for name in names if name.endswith(("al", "ail"))]
    found += [(name.removesuffix("aux"), "ai?l") for name in names if name.endswith("aux") and len(name) > 5]
    return [
        rf"(?<!{LETTER}){re.escape(name)}{ending}(?!{LETTER})"
        for name, ending in sorted({*found})
        if re.search("[a-z]{4}$", name) or ending in ("aux", "ai?l") and re.search("[a-z]{2}$", name)
    ]


def _word(name: str, plurals: bool) -> str:
    """A pattern for the name that is not adjacent to a letter, nor to a digit if it begins or ends with one."""
    before = r"(?<!\d)" if name[0].isdecimal() else rf"(?<!{LETTER})" if re.match(LETTER, name) else ""
    after = r"(?!\d)" if name[-1].isdecimal() else ""
    if re.match(f"[{AFFIXED}]", name[0]):
        before = ""
    if re.match(LETTER, name[-1]) and not re.match(f"[{HANGUL}{AFFIXED}]", name[-1]):
        after = rf"(?!{LETTER})"
    if re.fullmatch(r"[a-z]{5,}|[a-z\d]*\d[a-z\d]*", name):  # "Spider-Man" is "Spiderman"
        pattern = " ?".join(name) + ("s?" if plurals else "")
        pattern = f"(?:{pattern}|{_plural(name) if plurals else name})"
    else:
        pattern = _plural(name) if plurals else re.escape(name)
    return before + pattern.replace("\\ ", " ?") + after  # "Spiderman" is "Spider-Man"


def _singulars(name: str) -> list[str]:
    """What an English plural may be the plural of: "knives" of "knife", "boxes" of "box" and "boxe"."""
    if NO_SINGULAR.search(name):
        return []
    for ending, others in (
        (r"(?<=\w)ives$", ["ife", "ive"]),
        (r"(?<=\w\w)ves$", ["f", "ve"]),
        (r"(?<=\w\w)ies$", ["y", "ie"]),
        (r"(?:(?<=[sxzo])|(?<=[cs]h))es$", ["", "e"]),
        (r"(?<=\w\w)(?<!s)s$", [""]),
        (r"(?<=m)en$", ["an"]),
        (r"(?<=\w\w)i$", ["us"]),
    ):
        if re.search(ending, name):
            return [re.sub(ending, other, name) for other in others]
    return [re.sub(f"{many}$", one, name) for one, many in IRREGULAR.items() if re.search(rf"\b{many}$", name)]


def _plural(name: str) -> str:
    """A pattern for the name and its plural, which its last word of at least three letters has, or its other cases."""
    if re.search(f"[{CYRILLIC}]{{3}}$", name):
        stem = re.sub("[\u0430\u0435\u0438\u043e\u0443\u044b\u044d\u044e\u044f\u044c]$", "", name)
        return re.escape(stem) + f"[{CYRILLIC}]{{0,3}}"
    if found := re.fullmatch(r"(.+?)( (?:of|in|on|with|for|by) .+)", name):  # "birds of prey"
        return _plural(found[1]) + _plural(found[2])
    if found := re.search(r"(child|person|\b(?:mouse|louse|foot|tooth|goose|ox))$", name):
        return f"{re.escape(name[: found.start()])}(?:{found[1]}s?|{IRREGULAR[found[1]]})"
    if not re.search(r"[a-z]{3}$|\b[a-z]{2}$", name):
        return re.escape(name)
    for ending, plural in (
        (r"[^aeiou](y)", "ies"),
        (r"(?:i(fe)|(?:ea|oa|l|r|ie|oo)(f))", "ves"),
        (r"m(an)", "en"),
        (r"[a-z]{3}(a)", "ae"),
        (r"[a-z]{2}(is)", "es"),
        (r"[a-z]{3}(um)", "a"),
        (r"(eau)", "eaux"),
        (r"(?:[aeiou]z)()", "zes"),
        (r"(?:s|x|z|ch|sh|o)()", "es"),
    ):
        if found := re.search(ending + "$", name):
            stem = name[: len(name) - len("".join(filter(None, found.groups())))]
            latin = f"|{re.escape(name[:-2])}i" if name.endswith("us") else ""
            return f"(?:{re.escape(name)}s?|{re.escape(stem + plural)}{latin})"
    return re.escape(name) + "s?"
