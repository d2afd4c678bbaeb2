"""Writes words.tsv: what each concept is called and how it is described, in public words.

Names and code points come from concepts.txt; synonyms, definitions and kinds ("a tarantula") from WordNet; keywords
from Unicode's CLDR and from emojilib. A phrase is kept when it neither says the concept's name nor another concept's,
and when the teacher, given the phrase, ranks the concept among the first three of all names: a phrase that even the
teacher cannot place is no test of anything. A quarter of the descriptions is held out of all training, at least four
of each concept that is reported or tuned on. DROPPED and NOISE are the words that a person took out on reading.
"""

from __future__ import annotations

import csv
import itertools
import logging
import random
import re
from dataclasses import dataclass
from functools import cache

import wordnet
from common import HERE
from teacher import Teacher, read_json
from world import Concept, article, concepts, targets

WORDS = HERE / "words.tsv"
TOP = 3  # the teacher's rank up to which a phrase is kept
HELD_OUT, LEAST_HELD_OUT = 0.25, 4
DROPPED = set(
    # slurs and what may be read as one, trade names, noise of the keyword lists
    """fag butt gay queer lgbt lgbtq lgbtqia glbt glbtq genderqueer lesbian trans transgender pride dork geek nerdy
    terrorism drunk booze mac kod staffmode th u tbt hocho pencil2 typos af litaf lit snapstreak remove yolo
    lmao i’m mr. nba nasa olaf 911 mcdonalds mcdonald's strat chinese wheel projectile flaming authority annual
    deploy lollypop tophat rip""".split()
) | {"burger king", "without snow", "hangar queen"}
# what only one concept's list holds by mistake
DROPPED_OF = {"fire": {"tool"}, "ice cream": {"hot"}, "bomb": {"hot"}}
NOISE = set(
    """nature symbol face object objects activity mono black side class order alpha great push gang hipster shape
    negative positive major club mad men bearer cute pretty adorbs fall hrs win item color gadgets accessories open
    like heavy
    photo fast u primary description""".split()
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phrase:
    concept: str
    kind: str  # synonym, definition, keywords, kind of
    held_out: bool
    text: str


def says(text: str, nouns: set[str]) -> bool:
    """Whether the text holds one of the nouns as words, in singular or plural."""
    padded = " " + re.sub(r"[^a-z]+", " ", text.lower()) + " "
    return any(f" {noun}{ending} " in padded for noun in nouns for ending in ("", "s", "es"))


def own_stems(concept: Concept) -> set[str]:
    names = (concept.name, *wordnet.synset(concept.lemma, concept.sense).words)
    return {word.lower().rstrip("s") for name in names for word in re.split(r"[ -]", name) if len(word) > 1}


def names_itself(text: str, concept: Concept) -> bool:
    """Whether a word of the text is, or begins with, a word of the concept's names."""
    stems = own_stems(concept)
    long = tuple(stem for stem in stems if len(stem) > 3)
    return any(word.rstrip("s") in stems or word.startswith(long) for word in re.findall(r"[a-z]+", text.lower()))


@cache
def keywords(concept: Concept) -> tuple[str, ...]:
    """Its keywords of emojilib and CLDR, without noise, its own names and repeated stems ("smoke, smoking")."""
    emojilib = read_json("emojilib", "dist/emoji-en-US.json")
    cldr = read_json("cldr", "annotations/en/annotations.json")["annotations"]["annotations"]
    listed: list[str] = []
    for character in (concept.character, concept.character + "\ufe0f"):
        listed += emojilib.get(character, []) + cldr.get(character, {}).get("default", [])
    dropped = DROPPED | NOISE | DROPPED_OF.get(concept.name, set())
    by_stem: dict[str, str] = {}
    for key in (key.replace("_", " ").lower() for key in listed):
        if len(key) > 2 and key not in dropped and not names_itself(key, concept):
            by_stem.setdefault(re.sub(r"(ies|ing|es|s|y|e)$", "", key), key)
    return tuple(by_stem.values())


def candidates(concept: Concept) -> list[tuple[str, str]]:
    """(kind, phrase) of everything that the sources say of a concept, before the teacher is asked."""
    entry = wordnet.synset(concept.lemma, concept.sense)
    found = [("synonym", article(word)) for word in entry.words if word.lower() not in {concept.name.lower(), *DROPPED}]
    definitions = entry.definitions()
    if definitions:
        clauses = definitions[0].split(", ")
        found += [("definition", text) for text in (definitions[0], clauses[0]) if len(text.split()) >= 4]
    if len(definitions) > 1:
        found.append(("definition", ", ".join(definitions[:2])))
    for kind in wordnet.kinds_of(entry):
        word = kind.words[0]
        if word.islower() and len(word.split()) <= 2 and word not in DROPPED:
            found.append(("kind of", article(word)))
    keys = keywords(concept)[:9]
    combined = [*itertools.combinations(keys, 2), *itertools.combinations(keys[:6], 3)]
    elsewhere = [set(keywords(other)) for other in concepts() if other != concept]
    found += [("keywords", ", ".join(some)) for some in combined if not any(set(some) <= keys for keys in elsewhere)]
    others = {other.name for other in concepts()} - {concept.name}
    return [
        (kind, text)
        for kind, text in dict.fromkeys(found)
        if not says(text, others) and (kind == "synonym" or not names_itself(text, concept))
    ]


def hold_out(described: list[tuple[str, str]], least: int, rng: random.Random) -> set[str]:
    """Texts to hold out. Definitions that hold one another stay on one side: they count as one choice."""
    definitions = [text for kind, text in described if kind == "definition"]
    groups = [[text] for kind, text in described if kind != "definition"]
    if definitions:
        groups.append(definitions)
    rng.shuffle(groups)
    wanted = max(round(HELD_OUT * len(described)), min(least, (len(described) + 1) // 2))
    held: set[str] = set()
    for group in groups:
        if len(held) + len(group) <= wanted + (len(held) < wanted and len(group) > 1):
            held.update(group)
    return held


def build() -> list[Phrase]:
    teacher, rng = Teacher(), random.Random(0)
    names = teacher([article(concept.name) for concept in concepts()])
    strict = {target.name for target in targets()}
    found = []
    for index, concept in enumerate(concepts()):
        proposed = candidates(concept)
        scores = teacher([text for _, text in proposed]) @ names.T if proposed else []
        kept = [
            (kind, text)
            for (kind, text), row in zip(proposed, scores, strict=True)
            if int((row > row[index]).sum()) < TOP
        ]
        of = {kind: [text for k, text in kept if k == kind] for kind, _ in kept}
        most = {"synonym": 5, "definition": 3, "kind of": 6, "keywords": 16}
        for kind, texts in of.items():
            if kind in ("keywords", "kind of"):
                rng.shuffle(texts)
            of[kind] = texts[: most[kind]]
        described = [(kind, text) for kind, texts in of.items() if kind != "synonym" for text in texts]
        held = hold_out(described, LEAST_HELD_OUT if concept.name in strict else 2, rng)
        secret = [set(text.split(", ")) for kind, text in described if kind == "keywords" and text in held]
        described = [
            (kind, text)
            for kind, text in described
            if kind != "keywords" or text in held or not any(keys <= set(text.split(", ")) for keys in secret)
        ]  # no seen combination holds a held-out one
        found += [Phrase(concept.name, "synonym", False, text) for text in of.get("synonym", [])]
        found += [Phrase(concept.name, kind, text in held, text) for kind, text in described]
        if concept.name in strict and len(held) < LEAST_HELD_OUT:
            log.warning("%s has only %d held-out descriptions", concept.name, len(held))
    return found


def write(found: list[Phrase]) -> None:
    with open(WORDS, "w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["concept", "kind", "split", "phrase"])
        table.writerows([p.concept, p.kind, "held out" if p.held_out else "seen", p.text] for p in found)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write(build())
