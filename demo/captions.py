"""The language of the demo world.

A thing (a shape, a colour, a fill style) can be named in three kinds of words: its explicit name, a synonym, and
an implicit phrasing that names it nowhere ("a sheriff badge of the night sky" is a star). Each kind is split:
training never sees the held-out templates, nor the held-out quarter of the implicit phrasings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from drawing import BACKGROUNDS, COLOURS, SHAPES, STYLES, Attributes
from torch import Tensor

NOT_SAID = -1
KINDS = ("explicit", "synonym", "implicit")

TEMPLATES = (
    "{}",
    "a picture of {}",
    "a drawing of {}",
    "a photo of {}",
    "a painting of {}",
    "an icon of {}",
    "a simple image of {}",
    "a small print of {}",
    "a poster showing {}",
    "{} in the middle",
    "there is {} here",
    "we can see {}",
)
HELD_OUT_TEMPLATES = ("a sticker of {}", "a logo made of {}", "look at {}", "a sign showing {}")

SHAPE_SYNONYMS = {
    "circle": ("disc", "orb", "ball", "dot"),
    "square": ("box", "block", "cube", "quadrangle"),
    "triangle": ("pyramid", "wedge", "delta", "trigon"),
    "star": ("pentagram", "asterisk", "starburst", "sparkle"),
    "heart": ("valentine", "sweetheart", "lovemark", "ticker"),
    "cross": ("plus sign", "crucifix", "addition mark", "crossroads"),
    "crescent": ("half moon", "sickle", "lunette", "moon slice"),
    "hourglass": ("sand timer", "egg timer", "sandglass", "clepsydra"),
}

# an implicit phrasing is a head with a modifier: 16 for each shape, of which 4 are held out
SHAPE_HEADS = {
    "circle": ("a wheel", "a coin", "a pancake", "a bubble"),
    "square": ("a window pane", "a slice of toast", "a chess field", "a post stamp"),
    "triangle": ("a slice of pizza", "a camping tent", "a mountain peak", "a yield notice"),
    "star": ("a sheriff badge", "a twinkling light", "a christmas tree topper", "a sea animal with five arms"),
    "heart": ("a cupid target", "a wedding emblem", "a playing card symbol", "a locket"),
    "cross": ("a church top", "a first aid emblem", "a grave marker", "a windmill"),
    "crescent": ("a banana", "a croissant", "a boomerang", "a melon rind"),
    "hourglass": ("a sand clock", "a narrow waist", "a diabolo toy", "an old waiting cursor"),
}
SHAPE_MODIFIERS = {
    "circle": ("rolling down a hill", "without any corners", "perfectly round", "spinning around"),
    "square": ("with four equal sides", "as wide as it is tall", "with right angles", "that stacks like bricks"),
    "triangle": ("with three corners", "pointing to the sky", "with a wide base", "of an old pharaoh"),
    "star": ("with five shining points", "you wish upon", "of the night sky", "that guides the sailors"),
    "heart": ("that stands for love", "beating in a chest", "for someone you adore", "of a sweet romance"),
    "cross": ("of two bars meeting", "that a hospital shows", "for adding numbers", "with four arms"),
    "crescent": ("curved like a smile", "of early dawn", "waning in the evening", "with two sharp horns"),
    "hourglass": ("counting down minutes", "turned over and over", "of two funnels", "pinched in the middle"),
}

COLOUR_SYNONYMS = {
    "red": ("crimson", "scarlet"),
    "orange": ("amber", "tangerine"),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "jade"),
    "blue": ("azure", "cobalt"),
    "purple": ("violet", "mauve"),
}
COLOUR_PREFIXES = ("in the colour of", "painted like", "dyed like", "with the tone of")
COLOUR_SOURCES = {
    "red": ("ripe tomatoes", "fresh blood", "a fire engine", "strawberries"),
    "orange": ("carrots", "a pumpkin", "a basketball", "a traffic cone"),
    "yellow": ("egg yolk", "a sunflower", "a taxi cab", "a canary"),
    "green": ("fresh grass", "a frog", "spinach", "a pine forest"),
    "blue": ("the clear sky", "the deep ocean", "sapphires", "denim jeans"),
    "purple": ("grapes", "plums", "lavender", "eggplants"),
}

STYLE_SYNONYMS = {
    "solid": ("filled", "full"),
    "striped": ("banded", "barred"),
    "outlined": ("hollow", "wireframe"),
}
STYLE_PREFIXES = ("looking like", "drawn like", "made like", "that reminds of")
STYLE_SOURCES = {
    "solid": ("a block of paint", "a rubber stamp", "a paper cutout", "a slab of clay"),
    "striped": ("a zebra", "a barber pole", "a sailor shirt", "a tiger"),
    "outlined": ("a cookie cutter", "a bent wire", "a chalk contour", "an empty frame"),
}

BACKGROUND_WORDS = ("on a {} background", "on a {} wall", "on {} paper")


def held_out(i: int, j: int) -> bool:
    """Whether training leaves out the phrasing of head (or prefix) i with modifier (or source) j."""
    return (i + j) % 4 == 3


def implicit_phrasings(thing: str, held: bool) -> list[str]:
    """All implicit phrasings of a shape, colour or style, those seen in training or those held out of it."""
    if thing in SHAPES:
        heads, tails = SHAPE_HEADS[thing], SHAPE_MODIFIERS[thing]
    elif thing in COLOURS:
        heads, tails = COLOUR_PREFIXES, COLOUR_SOURCES[thing]
    else:
        heads, tails = STYLE_PREFIXES, STYLE_SOURCES[thing]
    return [f"{h} {t}" for i, h in enumerate(heads) for j, t in enumerate(tails) if held_out(i, j) == held]


def synonyms(thing: str) -> tuple[str, ...]:
    return {**SHAPE_SYNONYMS, **COLOUR_SYNONYMS, **STYLE_SYNONYMS}[thing]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' or noun.startswith('hour') else 'a'} {noun}"


def caption(
    shape: str,
    colour: str | None,
    style: str | None,
    background: str | None,
    kinds: tuple[str, str, str],
    generator: torch.Generator,
    *,
    held: bool = False,
) -> str:
    """One caption: what is None goes unsaid; `kinds` says in which words shape, colour and style are named.

    held: a held-out template, and held-out phrasings for whatever is named implicitly.
    """

    def pick(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    def name(thing: str, kind: str) -> str:
        if kind == "explicit":
            return thing
        return pick(synonyms(thing)) if kind == "synonym" else pick(implicit_phrasings(thing, held))

    adjectives, clauses = [], []
    for thing, kind in ((style, kinds[2]), (colour, kinds[1])):
        if thing is not None:
            (clauses if kind == "implicit" else adjectives).append(name(thing, kind))
    noun = name(shape, kinds[0])
    if kinds[0] == "implicit":
        article, noun = noun.split(" ", 1)
        phrase = _with_article(" ".join([*adjectives, noun])) if adjectives else f"{article} {noun}"
    else:
        phrase = _with_article(" ".join([*adjectives, noun]))
    if background is not None:
        clauses.append(pick(BACKGROUND_WORDS).format(background))
    return pick(HELD_OUT_TEMPLATES if held else TEMPLATES).format(" ".join([phrase, *clauses]))


@dataclass(frozen=True)
class Captions:
    """n captions with what each says: indices, or NOT_SAID where a drawing may show anything."""

    text: list[str]
    said: Attributes  # each (n,) int64, NOT_SAID allowed

    def shown(self, generator: torch.Generator) -> Attributes:
        """Attributes of drawings that fit the captions: what is not said is drawn at random."""
        filled = []
        for said, names in zip(_columns(self.said), (SHAPES, COLOURS, STYLES, BACKGROUNDS), strict=True):
            anything = torch.randint(len(names), said.shape, generator=generator)
            filled.append(torch.where(said == NOT_SAID, anything, said))
        return Attributes(*filled)


def _columns(attributes: Attributes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return attributes.shape, attributes.colour, attributes.style, attributes.background


def training_captions(n: int, generator: torch.Generator) -> Captions:
    """n captions in the mixture that the text encoder and the UNet are trained on; nothing held out occurs."""

    def choose(probabilities: list[float], options: tuple[str | None, ...]) -> str | None:
        return options[int(torch.multinomial(torch.tensor(probabilities), 1, generator=generator))]

    text, rows = [], []
    for _ in range(n):
        index = [int(torch.randint(len(names), (), generator=generator)) for names in (SHAPES, COLOURS, STYLES)]
        kind_shape = choose([0.40, 0.20, 0.40], KINDS)
        kind_colour = choose([0.45, 0.15, 0.25, 0.15], (*KINDS, None))
        kind_style = choose([0.45, 0.10, 0.20, 0.25], (*KINDS, None))
        background = choose([0.2, 0.2, 0.2, 0.4], (0, 1, 2, None))
        text.append(
            caption(
                SHAPES[index[0]],
                COLOURS[index[1]] if kind_colour else None,
                STYLES[index[2]] if kind_style else None,
                BACKGROUNDS[background] if background is not None else None,
                (kind_shape, kind_colour or "explicit", kind_style or "explicit"),
                generator,
            )
        )
        rows.append(
            (
                index[0],
                index[1] if kind_colour else NOT_SAID,
                index[2] if kind_style else NOT_SAID,
                NOT_SAID if background is None else background,
            )
        )
    return Captions(text, Attributes(*torch.tensor(rows).unbind(1)))


def evaluation_captions(
    thing: str, kind: str, n: int, generator: torch.Generator, *, held: bool = True
) -> tuple[list[str], Attributes]:
    """n captions that name `thing` in words of `kind`, everything else explicitly and at random, with what they say.

    held: held-out templates and, for implicit phrasings, held-out phrasings; otherwise those seen in training.
    """
    sizes = (len(SHAPES), len(COLOURS), len(STYLES), len(BACKGROUNDS))
    said = Attributes(*(torch.randint(size, (n,), generator=generator) for size in sizes))
    kinds = ["explicit", "explicit", "explicit"]
    for slot, (names, column) in enumerate(((SHAPES, said.shape), (COLOURS, said.colour), (STYLES, said.style))):
        if thing in names:
            column.fill_(names.index(thing))
            kinds[slot] = kind
    text = [
        caption(SHAPES[a], COLOURS[b], STYLES[c], BACKGROUNDS[d], tuple(kinds), generator, held=held)
        for a, b, c, d in torch.stack(_columns(said), 1).tolist()
    ]
    return text, said
