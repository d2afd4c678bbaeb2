"""The pictures of the demo world: one shape, in one colour, one fill style, on one background.

Every drawing is 64 x 64 RGB in [0, 1], rendered in batches from signed distance fields, with jitter in place,
size, rotation and stripe phase. `draw` makes proper drawings, `draw_broken` the ones that show none of the shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from torch import Tensor

SIZE = 64  # pixels
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "crescent", "hourglass")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
STYLES = ("solid", "striped", "outlined")
BACKGROUNDS = ("white", "gray", "black")

COLOUR_RGB = torch.tensor(
    [(212, 32, 44), (250, 138, 26), (250, 222, 50), (36, 160, 72), (36, 92, 224), (140, 54, 184)]
).div(255)
BACKGROUND_RGB = torch.tensor([(246, 246, 244), (132, 134, 140), (24, 24, 30)]).div(255)

FIELD_SIZE = 256  # pixels of a signed distance field, which spans [-FIELD_SPAN, FIELD_SPAN]
FIELD_SPAN = 2.0
STROKE = 0.17  # width of an outline, in half canvases
STRIPE_PERIOD = 0.46  # 15 pixels: about two latent cells, so that the autoencoder can carry the phase
TINT = 0.78  # how far the light stripes are from the colour to white


@dataclass(frozen=True)
class Attributes:
    """What a batch of n drawings shows: indices into SHAPES, COLOURS, STYLES and BACKGROUNDS."""

    shape: Tensor  # (n,) int64
    colour: Tensor  # (n,) int64
    style: Tensor  # (n,) int64
    background: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index) -> Attributes:
        return Attributes(self.shape[index], self.colour[index], self.style[index], self.background[index])


def random_attributes(n: int, generator: torch.Generator) -> Attributes:
    """n drawings' worth of attributes, each uniform and independent."""
    sizes = (len(SHAPES), len(COLOURS), len(STYLES), len(BACKGROUNDS))
    return Attributes(*(torch.randint(size, (n,), generator=generator) for size in sizes))


def _regular(corners: int, inner: float = 1.0, turn: float = 0.0) -> np.ndarray:
    """Corners on the unit circle, every second one at radius `inner` when that is below 1."""
    angle = np.arange(corners) * 2 * math.pi / corners - math.pi / 2 + turn
    radius = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3, y - 2.5], 1) / 16.5


def _crescent() -> np.ndarray:
    """A disc less a disc of 0.85 times its size moved to the right, centred."""
    r, shift = 0.85, 0.52
    x = (1 - r * r + shift * shift) / (2 * shift)  # where the two circles meet
    outer = np.linspace(math.acos(x), 2 * math.pi - math.acos(x), 120)
    inner_end = math.acos((x - shift) / r)
    inner = np.linspace(2 * math.pi - inner_end, inner_end, 120)
    points = np.concatenate(
        [np.stack([np.cos(outer), np.sin(outer)], 1), np.stack([shift + r * np.cos(inner), r * np.sin(inner)], 1)]
    )
    return points + np.array([0.22, 0.0])


def _outline(shape: str) -> np.ndarray:
    """Corner points (k, 2) of a shape about the origin, y down, of about the same visual weight for all shapes."""
    a = 0.34  # half the width of a bar of the cross
    match shape:
        case "circle":
            return _regular(128) * 0.86
        case "square":
            return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.76
        case "triangle":
            return _regular(3) * 1.12 + np.array([0, 0.18])
        case "star":
            return _regular(10, inner=0.44) * 1.12 + np.array([0, 0.06])
        case "heart":
            return _heart() * 0.98
        case "cross":
            corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a)]
            return np.array([*corners, (-1, -a), (-a, -a)]) * 0.94
        case "crescent":
            return _crescent() * 1.05
        case "hourglass":
            return np.array([(-0.72, -1), (0.72, -1), (0.14, 0), (0.72, 1), (-0.72, 1), (-0.14, 0)])
    raise ValueError(f"unknown shape {shape!r}: one of {SHAPES}")


@cache
def _fields() -> Tensor:
    """Signed distance (negative inside) of every shape, (shapes, FIELD_SIZE, FIELD_SIZE), in shape radii."""
    fields = []
    for shape in SHAPES:
        scale = 4  # rasterised larger, so that corners stay sharp
        pixels = (_outline(shape) / FIELD_SPAN + 1) / 2 * FIELD_SIZE * scale
        mask = Image.new("1", (FIELD_SIZE * scale, FIELD_SIZE * scale))
        ImageDraw.Draw(mask).polygon([tuple(p) for p in pixels], fill=1)
        inside = np.asarray(mask)
        distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
        distance = distance.reshape(FIELD_SIZE, scale, FIELD_SIZE, scale).mean((1, 3)) / scale
        fields.append(torch.from_numpy(distance * 2 * FIELD_SPAN / FIELD_SIZE).float())
    return torch.stack(fields)


def _canvas(n: int) -> Tensor:
    """Pixel centres (n, SIZE, SIZE, 2) as x, y in [-1, 1]."""
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).expand(n, SIZE, SIZE, 2)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, generator=generator)


def _rotate(points: Tensor, angle: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], -1)


def _sample(fields: Tensor, points: Tensor) -> Tensor:
    """Distance fields (n, h, w) at points (n, SIZE, SIZE, 2) given in shape radii."""
    return F.grid_sample(fields[:, None], points / FIELD_SPAN, padding_mode="border", align_corners=False)[:, 0]


def _paint(distance: Tensor, attributes: Attributes, generator: torch.Generator) -> Tensor:
    """Colours the signed distances (n, SIZE, SIZE), in half canvases, as the attributes say: (n, 3, SIZE, SIZE)."""
    n = len(attributes)
    cover = lambda d: (0.5 - d * SIZE / 2).clamp(0, 1)  # noqa: E731  one pixel of anti-aliasing
    inside = cover(distance)
    stroke = cover((distance + STROKE / 2).abs() - STROKE / 2)

    slant = _uniform(n, -0.15, 0.15, generator)
    across = _rotate(_canvas(n), slant)[..., 1] / STRIPE_PERIOD + _uniform(n, 0, 1, generator)
    stripe = cover(((across % 1) - 0.5).abs() * STRIPE_PERIOD - STRIPE_PERIOD / 4)[:, None]

    colour = COLOUR_RGB[attributes.colour][:, :, None, None]
    colour = (colour + 0.02 * torch.randn(n, 3, 1, 1, generator=generator)).clamp(0, 1)
    background = BACKGROUND_RGB[attributes.background][:, :, None, None].expand(n, 3, SIZE, SIZE)
    striped = stripe * colour + (1 - stripe) * (colour + (1 - colour) * TINT)

    style = attributes.style[:, None, None]
    alpha = torch.where(style == STYLES.index("outlined"), stroke, inside)[:, None]
    fill = torch.where(style[:, None] == STYLES.index("striped"), striped, colour)
    return alpha * fill + (1 - alpha) * background


def _place(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where the n shapes stand: pixel positions in shape radii (n, SIZE, SIZE, 2), and the radius (n, 1, 1)."""
    radius = _uniform(n, 0.60, 0.76, generator)
    shift = torch.cat([_uniform(n, -0.12, 0.12, generator), _uniform(n, -0.12, 0.12, generator)], -1)
    points = _rotate(_canvas(n) - shift[:, None], _uniform(n, -0.2, 0.2, generator))
    return points / radius[..., None], radius


def draw(attributes: Attributes, generator: torch.Generator) -> Tensor:
    """Proper drawings of the attributes, (n, 3, SIZE, SIZE) in [0, 1]."""
    return draw_with_outline(attributes, generator)[0]


def draw_with_outline(attributes: Attributes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Proper drawings, and beside each the outline of its shape in white on black: both (n, 3, SIZE, SIZE)."""
    points, radius = _place(len(attributes), generator)
    distance = _sample(_fields()[attributes.shape], points) * radius
    outline = (1.5 - distance.abs() * SIZE / 2).clamp(0, 1)  # three pixels wide
    return _paint(distance, attributes, generator), outline[:, None].expand(-1, 3, -1, -1)


def draw_broken(attributes: Attributes, generator: torch.Generator) -> Tensor:
    """Drawings in which a person would recognise no shape, for the judge's "none of these" class.

    In turn: blends of the named shape with another one, shapes bent beyond recognition, shapes of which a half is
    missing, smooth random blobs. Colours, styles and backgrounds are proper. (n, 3, SIZE, SIZE) in [0, 1].
    """
    n = len(attributes)
    points, radius = _place(n, generator)
    kind = torch.arange(n)[:, None, None] % 4
    field = _fields()[attributes.shape]

    other = (attributes.shape + torch.randint(1, len(SHAPES), (n,), generator=generator)) % len(SHAPES)
    weight = _uniform(n, 0.4, 0.6, generator)
    blend = _sample(weight * field + (1 - weight) * _fields()[other], points)

    noise = torch.randn(n, 2, 4, 4, generator=generator)
    bend = F.interpolate(noise, SIZE, mode="bicubic").permute(0, 2, 3, 1)
    bent = _sample(field, points + 0.55 * bend)

    # a straight cut through the middle takes away the half on one side of it
    side = _rotate(points, _uniform(n, 0, 2 * math.pi, generator))[..., 0]
    cut = torch.maximum(_sample(field, points), side - _uniform(n, -0.15, 0.1, generator))

    angle = torch.atan2(points[..., 1], points[..., 0])
    blob = points.norm(dim=-1) - 0.75
    for frequency in range(2, 5):
        strength = 0.2 * torch.randn(n, 1, 1, generator=generator)
        blob = blob + strength * torch.cos(frequency * angle + _uniform(n, 0, 2 * math.pi, generator))

    # half a triangle is a triangle, a crescent's part a crescent, and some blends are one of the two after all
    still_whole = (_overlap(blend, field, points) > 0.82) | (_overlap(blend, _fields()[other], points) > 0.82)
    still_itself = (attributes.shape == SHAPES.index("triangle")) | (attributes.shape == SHAPES.index("crescent"))
    use_blend = (kind == 0) & ~still_whole[:, None, None]
    use_cut = (kind == 2) & ~still_itself[:, None, None]
    distance = torch.where(use_blend, blend, torch.where(kind == 1, bent, torch.where(use_cut, cut, blob)))
    return _paint(distance * radius, attributes, generator)


def _overlap(distance: Tensor, field: Tensor, points: Tensor) -> Tensor:
    """Intersection over union (n,) of what lies inside `distance` with a shape's field at the same place."""
    a, b = distance < 0, _sample(field, points) < 0
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)
