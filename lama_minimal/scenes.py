"""Built-in pictures: an endless, seeded supply of small structured scenes, each with a label for every pixel.

A network that fills holes learns most from pictures whose structure says what belongs in the hole: rows of bricks,
grids of windows, sleepers of a railway.  Photographs of such places are heavy and must be downloaded; the scenes here
are drawn in a few milliseconds from a seed, so a training run needs nothing but this file.

How a scene is drawn.  All geometry is in units of the picture's side (x to the right, y downwards, both 0…1), and every
random number is drawn before a pixel is touched, on lattices of fixed size; the same seed therefore gives the same
place at 64 pixels and at 1,024.  Walls and floors are planes: a homography takes a pixel to coordinates (u, v) in
which the pattern has period 1, and patterns are box-filtered over the pixel's footprint (du, dv), so that distant
bricks fade to their mean instead of shimmering.  Free shapes are polygons drawn fine and averaged down, or distances
cut off softly.  Colours are picked from small palettes of things as they are: brick, slate, paint, leaves, skies.

Shapes of arrays:  S pixels along the picture's side · N points of a line or polygon · 3 colour channels (RGB).
Inside, pictures are (3, S, S) float32 in 0…1, channels first because NumPy then works on long rows; a colour is
(3, 1, 1), and a cover (how much of each pixel a thing hides, 0…1) is (S, S) or broadcasts to it.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

Array = np.ndarray
LABELS: tuple[str, ...] = (
    *("sky", "hill", "ground", "vegetation", "water", "wall", "brick", "tile"),
    *("window", "opening", "wood", "metal", "stone", "fabric", "book", "object"),
)
LABEL = {name: index for index, name in enumerate(LABELS)}

# Anchors between which colours are mixed.
PALETTES: dict[str, tuple[str, ...]] = {
    "brick": ("9c4f3a", "b5694d", "7d4436", "c9a878", "8f6d5b", "98452f", "d8c8a8", "5e4a48", "8c8680", "b08a70"),
    "mortar": ("d6cec0", "c6beb2", "e2dccf", "d8d2cc"),
    "gap": ("4a4540", "5b5048", "3d3a3a", "66605a"),
    "plaster": ("e3d5b8", "d9c3a0", "cfd2cc", "e8e2d4", "c99f7c", "b7c0bd", "d8a98c", "a9b7a0", "c8b48e", "93a3b0"),
    "stone": ("8f8a82", "a59c8e", "77777a", "b9ad97", "6b655f", "9aa0a0"),
    "wood": ("8a6240", "a67c52", "6b4a32", "b9946a", "7a6f63", "5b4636", "a08d78"),
    "paint": ("2f4f6b", "7b2f2d", "3d5f45", "c9a23c", "e6e2d8", "a8553a", "4a6f86", "34393f", "7d8f6a", "5c3f56"),
    "metal": ("2b2e33", "4a4f55", "6d6459", "1f3a36", "7c3a2c", "8d9499"),
    "glass": ("2a3640", "3f5260", "5d7686", "1d242b", "7f98a6"),
    "tile": ("e8e4da", "b9cdd0", "8fb0a8", "c7835f", "d9c9a3", "54707f", "a3b18a", "b5b0ac", "7a5548"),
    "slate": ("5f676f", "8c4a3a", "a65e45", "4b4f57", "7a6a5f", "b0745a", "6d7d78"),
    "fabric": ("b23a35", "2f5f8a", "3c7a58", "d99a3a", "7a3b52", "23304a", "c8603f", "6b8f94"),
    "cream": ("f0e8d6", "e6dcc4", "f4f1e8", "dfe3e0"),
    "leaf": ("3f5a2b", "5c7a38", "7d9446", "2f4a34", "8f9a4c", "50703f", "9c8a3e"),
    "soil": ("8a7a5c", "a8946e", "6f6450", "b9ab8a", "7d7468"),
    "water": ("2f5566", "3f6f7c", "27455a", "5a8a8c", "1f3b4d", "6d8f9a"),
    "book": ("6b2a28", "23395b", "2f4f3a", "7a5a2a", "3b2a3f", "8c6a4a", "a03c2c", "c2a878", "4b5a66"),
    "fruit": ("b8322a", "d98a2a", "7d9a3a", "d8b83f", "6b2f4f", "4f7f9a", "e0d6c4", "3f4f5f"),
}
# Colours at the zenith and at the horizon.
SKIES = (("3f78b5", "c3dcec"), ("5f8fbf", "e6e6dc"), ("8a9aa8", "d4d8d8"), ("2f5f9f", "9fc4e0"))
SKIES += (("4a5a8a", "f0b48a"), ("6f88b0", "f4dcb8"), ("39466b", "d98a6b"), ("a9b8c0", "ece6da"))


@dataclass(frozen=True)
class Scene:
    """A drawn scene: picture (S, S, 3) uint8, labels (S, S) uint8 into LABELS, class, perspective strength 0…1."""

    image: Array
    labels: Array
    scene_class: str
    perspective: float


class Plane(NamedTuple):
    """A wall or floor: pattern coordinates u, v and the pixel's footprint du, dv in them.

    Each broadcasts to (S, S); what changes only to the right or only downwards is one row or column, and quick to use.
    middle is (u, v) at the picture's centre, for placing single things such as the top of a fence.
    """

    u: Array
    v: Array
    du: Array
    dv: Array
    middle: tuple[float, float]

    def finer(self, across: float, down: float) -> "Plane":
        """Return the same plane with so many times as many periods."""
        u, v = self.middle
        return Plane(self.u * across, self.v * down, self.du * across, self.dv * down, (u * across, v * down))


class Canvas:
    """A picture in the making: image (3, S, S), labels (S, S), pixel centres x (1, S) and y (S, 1), random numbers.

    A part of it (see `part`) has fewer rows and columns of all of these, and the same size S.
    """

    def __init__(self, size: int, rng: np.random.Generator, perspective: float) -> None:
        """Start with a black picture labelled 'object'; perspective is 0…1."""
        self.size, self.rng, self.perspective = size, rng, perspective
        centres = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = centres[None, :], centres[:, None]
        self.image = np.zeros((3, size, size), np.float32)
        self.labels = np.full((size, size), LABEL["object"], np.uint8)
        self.window = (slice(0, size), slice(0, size))  # rows and columns of the whole picture

    def part(self, left: float, top: float, right: float, bottom: float, margin: int = 2) -> "Canvas":
        """Return the part of a whole picture between two corners, and `margin` pixels around; painting it paints here.

        For things that are small: outside the part they would cost as much and leave the picture as it is.
        """

        def pixels(low: float, high: float) -> slice:
            first = min(max(math.floor(low * self.size) - margin, 0), self.size)
            return slice(first, min(max(math.ceil(high * self.size) + margin, first), self.size))

        rows, columns = pixels(top, bottom), pixels(left, right)
        part = object.__new__(Canvas)
        part.size, part.rng, part.perspective, part.window = self.size, self.rng, self.perspective, (rows, columns)
        part.x, part.y = self.x[:, columns], self.y[rows]
        part.image, part.labels = self.image[:, rows, columns], self.labels[rows, columns]
        return part

    def pick(self, palette: str) -> Array:
        """Return a natural colour (3, 1, 1): a mix of two of the palette's anchors, a little lighter or darker."""
        anchors = COLOURS[palette]
        first, second = self.rng.integers(len(anchors), size=2)
        colour = mix(anchors[first], anchors[second], self.rng.uniform(0, 0.5))
        return np.minimum(colour * self.rng.uniform(0.88, 1.12), 1)

    def between(self, low: float, high: float) -> float:
        """Return a random number in [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def paint(self, cover: Array, colour: Array, label: str | None = None) -> None:
        """Lay a colour (3, 1, 1) or texture (3, S, S) over the picture where cover is; label pixels mostly hidden."""
        change = colour - self.image
        change *= cover
        self.image += change
        if label is not None:  # by arithmetic modulo 256: much faster than by indices
            self.labels += (cover > 0.5).view(np.uint8) * (LABEL[label] - self.labels)

    def fill(self, colour: Array, label: str) -> None:
        """Cover the whole picture with a colour or texture and a label."""
        self.image[:] = colour
        self.labels[:] = LABEL[label]

    def shade(self, cover: Array, strength: float) -> None:
        """Darken the picture by strength 0…1 where cover is; labels stay."""
        self.image *= 1 - strength * cover


def hex_colour(code: str) -> Array:
    """Return 'rrggbb' as a (3, 1, 1) float32 colour."""
    return np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32).reshape(3, 1, 1) / 255


COLOURS = {name: [hex_colour(code) for code in codes] for name, codes in PALETTES.items()}


def mix(first: Array, second: Array, share: Array | float) -> Array:
    """Return first where share is 0, second where it is 1, and in between in between."""
    mixture = share * (second - first)
    mixture += first
    return mixture


# ---------------------------------------------------------------------------------------------- planes and patterns


def plane(c: Canvas, tilt: tuple[float, float], cells: tuple[float, float], turn: float = 0, eye: float = 0.5) -> Plane:
    """Return a plane seen in perspective, its pattern `cells` periods to the picture's side at the centre.

    tilt is how much nearer the plane comes per side to the right and downwards; ±2 puts the horizon on the border.
    The pattern is turned by `turn` radians; lines into the distance meet at height `eye`.
    """

    def times(factor: float, t: Array) -> Array:
        return factor * t if factor else np.zeros((1, 1), np.float32)

    near = np.maximum(1 + times(tilt[0], c.x - 0.5) + times(tilt[1], c.y - 0.5), 0.02)
    cos, sin, across, down = math.cos(turn), math.sin(turn), c.x - 0.5, c.y - eye
    u = (times(cos, across) + times(sin, down)) / near
    v = (times(cos, down) - times(sin, across)) / near
    # Derivatives of a quotient; their length is the side of the box to average over.
    du = np.sqrt((cos - times(tilt[0], u)) ** 2 + (sin - times(tilt[1], u)) ** 2) / (near * c.size)
    dv = np.sqrt((sin + times(tilt[0], v)) ** 2 + (cos - times(tilt[1], v)) ** 2) / (near * c.size)
    phase_u, phase_v = c.between(8, 9), c.between(8, 9)
    centre = (phase_u + cells[0] * sin * (0.5 - eye), phase_v + cells[1] * cos * (0.5 - eye))
    return Plane(cells[0] * u + phase_u, cells[1] * v + phase_v, cells[0] * du, cells[1] * dv, centre)


def wall(c: Canvas, cells: tuple[float, float], turn: float = 0) -> Plane:
    """Return a wall going away to the left or right."""
    side = 1 if c.chance(0.5) else -1
    return plane(c, (1.4 * side * c.perspective, 0), cells, turn, c.between(0.25, 0.75))


def floor(c: Canvas, cells: tuple[float, float], turn: float = 0) -> tuple[Plane, float]:
    """Return a floor going away upwards, and its horizon (negative when above the picture)."""
    steep = 3.4 * c.perspective
    # What is near grows with the perspective; more cells keep several of them in the foreground.
    cells = (cells[0] * (1 + 0.3 * steep), cells[1] * (1 + 0.6 * steep))
    return plane(c, (0, steep), cells, turn), 0.5 - 1 / max(steep, 1e-3)


def bars(t: Array, width: float, blur: Array, start: float = 0) -> Array:
    """Return the cover of bars of period 1, each from start to start + width, averaged over a box of side blur."""

    def covered(end: Array) -> Array:
        whole = np.floor(end)
        end -= whole
        whole *= width
        whole += np.minimum(end, width, out=end)
        return whole

    half, t = 0.5 * blur, t - start
    cover = covered(t + half)
    cover -= covered(t - half)
    cover /= blur
    return cover


def _clip(values: Array) -> Array:
    """Limit values to 0…1 in place."""
    return np.minimum(np.maximum(values, 0, out=values), 1, out=values)


def inside(distance: Array, blur: Array | float) -> Array:
    """Return the cover of the shape whose signed distance (negative inside) is given, softened over one pixel."""
    return _clip(0.5 - distance / blur)


def span(t: Array, low: Array | float, high: Array | float, blur: Array | float) -> Array:
    """Return the cover of the single stripe low < t < high."""
    return inside(low - t, blur) * inside(t - high, blur)


def below(c: Canvas, horizon: float) -> Array:
    """Return the cover (S, 1) of everything below a level line."""
    return inside(horizon - c.y, 1 / c.size)


def visible(blur: Array) -> Array:
    """Return how much of a detail of period 1 survives averaging over blur: 1 near, 0 far."""
    return np.clip(1.3 - blur, 0, 1)


def vary(c: Canvas, u: Array, v: Array, blur: Array | float = 0) -> Array:
    """Return a random number -1…1 for each cell of the pattern, fading in the distance."""
    table = c.rng.uniform(-1, 1, (32, 32)).astype(np.float32)
    column, row = (np.floor(t).astype(np.int32) & 31 for t in (u, v))
    return table.take(32 * row + column, mode="wrap") * visible(blur)


def noise(c: Canvas, across: int, down: int, octaves: int = 3) -> Array:
    """Return smooth noise (S, S), or that of the canvas's part, whose coarsest lattice has across by down knots."""
    total = None
    for octave in range(octaves):
        knots = c.rng.uniform(-1, 1, (min(down << octave, 128), min(across << octave, 128))).astype(np.float32)
        method = cv2.INTER_CUBIC if c.size > max(knots.shape) else cv2.INTER_AREA
        layer = cv2.resize(knots, (c.size, c.size), interpolation=method)
        layer *= 0.6**octave
        total = layer if total is None else np.add(total, layer, out=total)
    return total[c.window]


def noise_on(c: Canvas, p: Plane, across: float, down: float) -> Array:
    """Return noise -1…1 fixed to the plane, with across by down knots to each cell of its pattern."""
    knots = cv2.GaussianBlur(c.rng.uniform(-1, 1, (64, 64)).astype(np.float32), (3, 3), 0.7)
    u, v = p.u * np.float32(across), p.v * np.float32(down)
    u, v = np.broadcast_arrays(u - 64 * np.floor(u / 64), v - 64 * np.floor(v / 64))  # the remainder, but faster
    values = cv2.remap(knots, np.ascontiguousarray(u), np.ascontiguousarray(v), cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)
    values *= 1.6
    values *= visible(np.maximum(across * p.du, down * p.dv))
    return values


def stencil(c: Canvas, polygons: Sequence[Sequence[Sequence[float]]], margin: int = 2) -> tuple[Canvas, Array]:
    """Return the part of a whole canvas in which polygons of N points (x, y) lie, and how much of it they cover.

    The part reaches `margin` pixels further.  Polygons are drawn fine and averaged down.
    """
    ends = np.concatenate([np.asarray(points) for points in polygons])
    part = c.part(*ends.min(0), *ends.max(0), margin)
    height, width = part.labels.shape
    if not height or not width:
        return part, np.zeros((height, width), np.float32)
    factor = max(2, 512 // c.size)
    fine = np.zeros((height * factor, width * factor), np.uint8)
    corner = np.array((part.window[1].start, part.window[0].start)) * factor * 16
    for points in polygons:  # one by one: together, overlapping polygons would cancel out
        places = np.round(np.asarray(points) * c.size * factor * 16 - 8).astype(np.int32)
        cv2.fillPoly(fine, [places - corner.astype(np.int32)], 255, shift=4)
    return part, cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def fill_polygons(c: Canvas, polygons: Sequence[Sequence[Sequence[float]]], colour: Array, label: str) -> None:
    """Paint polygons in one colour (3, 1, 1)."""
    part, cover = stencil(c, polygons)
    part.paint(cover, colour, label)


def stroke(points: Sequence[Sequence[float]], width: float) -> list[Array]:
    """Return the segments of a line through N points as thin quadrilaterals for `stencil`."""
    ends = np.asarray(points, np.float64)
    along = np.diff(ends, axis=0)
    side = along[:, ::-1] * (0.5 * width, -0.5 * width) / (np.hypot(*along.T)[:, None] + 1e-9)
    return [np.array((a + s, b + s, b - s, a - s)) for a, b, s in zip(ends[:-1], ends[1:], side, strict=True)]


# ------------------------------------------------------------------------------------------------------- materials


def jointing(c: Canvas, colour: Array) -> Array:
    """Return a colour for joints that stands out: pale mortar between dark blocks, dark gaps between pale ones."""
    return c.pick("gap" if float(colour.mean()) > 0.5 else "mortar")


def chequer(c: Canvas, p: Plane) -> Array | float:
    """Return where (0…1) a second colour goes: alternate cells, alternate rows, every fourth cell, or nowhere."""
    even_u, even_v = bars(p.u / 2, 0.5, p.du / 2), bars(p.v / 2, 0.5, p.dv / 2)
    alternate = even_u * even_v + (1 - even_u) * (1 - even_v)
    return (alternate, alternate, even_v, even_u * even_v, 0.0)[c.rng.integers(5)]


def brickwork(c: Canvas, p: Plane, colour: Array, joint: Array, gap: tuple[float, float], bond: float) -> Array:
    """Return a texture (3, S, S) of blocks, each row moved on by `bond` of a block, parted by joints `gap` wide."""
    u = p.u + bond * np.floor(p.v)
    blocks = 1 + 0.1 * vary(c, u, p.v, p.du) + 0.05 * noise_on(c, p, 7, 5)
    lines = 1 - (1 - bars(u, gap[0], p.du, -gap[0] / 2)) * (1 - bars(p.v, gap[1], p.dv, -gap[1] / 2))
    return mix(colour * blocks, joint, lines)


def boards(c: Canvas, p: Plane, colour: Array, gap: float) -> Array:
    """Return a texture (3, S, S) of planks along v, side by side in u, with grain and dark gaps."""
    grain = 0.09 * noise_on(c, p, 9, 0.35) + 0.08 * vary(c, p.u, np.zeros_like(p.v), p.du)
    rounded = 0.12 * (bars(p.u, 0.5, p.du + 0.3) - 0.5) * visible(p.du)
    return colour * (1 + grain + rounded) * (1 - 0.65 * bars(p.u, gap, p.du, -gap / 2))


def glass(c: Canvas, p: Plane) -> Array:
    """Return a texture (3, S, S) of window panes reflecting the sky, a few of them brighter."""
    sheen = 0.25 * vary(c, p.u, p.v, p.du) + 0.9 * (c.y - 0.5) * c.between(-1, 1)
    return np.clip(c.pick("glass") * (1 + sheen), 0, 1)


def sky(c: Canvas) -> None:
    """Paint a graded sky, often with clouds."""
    zenith, horizon = map(hex_colour, SKIES[c.rng.integers(len(SKIES))])
    c.fill(mix(zenith, horizon, np.clip(c.y * c.between(0.9, 1.8), 0, 1)), "sky")
    amount, wisps = c.between(-0.3, 0.7), noise(c, 2, int(c.rng.integers(4, 9)), 5)
    c.paint(np.clip(0.9 * (wisps - 0.5 + amount), 0, 0.85), mix(horizon, hex_colour("ffffff"), 0.6))


def ridge(c: Canvas, height: float, relief: float) -> Array:
    """Return a rolling line (1, S): y of a hill's crest about `height`."""
    knots = [c.rng.uniform(-relief, relief, (1, 3 << k)).astype(np.float32) for k in range(3)]
    lines = [cv2.resize(k, (c.size, 1), interpolation=cv2.INTER_CUBIC) for k in knots]
    return height + lines[0] + 0.5 * lines[1] + 0.25 * lines[2]


def hills(c: Canvas, horizon: float, layers: int = 2) -> None:
    """Paint layers of hills, the far ones paler, their feet at the horizon."""
    haze, base = c.image.mean(axis=(1, 2), keepdims=True), c.pick("leaf")
    rise, relief = c.between(0.06, 0.13), c.between(0.02, 0.09)
    for layer in range(layers):
        crest = ridge(c, horizon - rise * (layers - layer), relief)
        colour = mix(base, haze, 0.75 * (layers - layer) / (layers + 0.3))
        part = c.part(0, float(crest.min()), 1, 1)
        part.paint(inside(crest - part.y, 1 / c.size), colour * (1 + 0.4 * (part.y - crest)), "hill")


def skyline(c: Canvas, horizon: float) -> None:
    """Paint a distant row of houses standing on the horizon."""
    edges = np.sort(np.append(c.rng.uniform(0, 1, 9), (-0.01, 1.01)))
    tops = horizon - c.rng.uniform(0.03, 0.2, 10)
    colour = mix(c.pick("plaster"), c.image.mean(axis=(1, 2), keepdims=True), c.between(0.35, 0.7))
    houses = [((a, t), (b, t), (b, horizon), (a, horizon)) for a, b, t in zip(edges, edges[1:], tops, strict=False)]
    fill_polygons(c, houses, colour * 0.8, "wall")


def ground(c: Canvas, horizon: float, palette: str, label: str) -> None:
    """Paint flat land or water below the horizon, paler far away, with a grain that runs into the distance."""
    far = mix(c.pick(palette), c.image.mean(axis=(1, 2), keepdims=True), 0.45)
    c = c.part(0, horizon, 1, 1)
    depth = np.clip((c.y - horizon) / max(1 - horizon, 0.05), 0, 1)
    p = plane(c, (0, 1 / max(0.5 - horizon, 0.02) if horizon < 0.48 else 20), (6, 6))
    texture = mix(far, c.pick(palette), depth**0.6) * (1 + 0.16 * noise_on(c, p, 0.5, 3) + 0.1 * noise(c, 12, 24, 3))
    c.paint(below(c, horizon), texture, label)


def vista(c: Canvas, horizon: float, wooded: float = 0.6) -> None:
    """Paint the sky and, on the horizon, hills (with probability `wooded`) or houses."""
    sky(c)
    (hills if c.chance(wooded) else skyline)(c, horizon)


def backdrop(c: Canvas, horizon: float) -> None:
    """Paint what lies behind a fence: a vista, and land or water before it."""
    vista(c, horizon)
    ground(c, horizon, *(("leaf", "vegetation"), ("water", "water"), ("soil", "ground"))[c.rng.integers(3)])


def ball(c: Canvas, x: float, y: float, radius: float, colour: Array) -> None:
    """Paint a ball lit from the upper left, with its shadow on what is beneath."""
    wide, tall = 1.25 * radius, 0.4 * radius
    middle, foot = x + 0.35 * radius, y + 0.9 * radius
    # At 3.7 times these from its middle a shadow takes off less than the last bit of a number.
    part = c.part(middle - 3.7 * wide, foot - 3.7 * tall, middle + 3.7 * wide, foot + 3.7 * tall)
    shadow = ((part.x - x - 0.35 * radius) / wide) ** 2 + ((part.y - y - 0.9 * radius) / tall) ** 2
    part.shade(np.exp(-1.5 * shadow), 0.6)
    c = c.part(x - radius, y - radius, x + radius, y + radius)
    across, down = (c.x - x) / radius, (c.y - y) / radius
    towards = np.sqrt(np.clip(1 - across**2 - down**2, 0, 1))
    light = np.clip(-0.5 * across - 0.55 * down + 0.67 * towards, 0, 1)
    cover = inside(np.sqrt(across**2 + down**2) - 1, 1 / (radius * c.size))
    c.paint(cover, np.clip(colour * (0.3 + 0.85 * light) + 0.5 * light**24, 0, 1), "object")


def post(c: Canvas, x: float, top: float, foot: float, width: float, colour: Array, label: str) -> None:
    """Paint an upright round post, lit from the left."""
    c = c.part(x - width / 2, top, x + width / 2, foot)
    across = (c.x - x) / width
    cover = inside(np.abs(across) - 0.5, 1 / (width * c.size)) * span(c.y, top, foot, 1 / c.size)
    c.paint(cover, np.clip(colour * (1.1 - 0.9 * across), 0, 1), label)


def box(c: Canvas, x: float, y: float, width: float, height: float, colour: Array) -> None:
    """Paint a box standing with its foot's left corner at (x, y): front, top and shaded side."""
    dx, dy = 0.35 * width, 0.22 * width
    flat = ((x, y), (x + width + dx, y - dy), (x + 1.9 * width + dx, y - 0.7 * dy), (x + 1.2 * width, y + 0.3 * dy))
    part, cover = stencil(c, [flat], round(0.08 * c.size) + 4)  # room for the blur
    part.shade(cv2.GaussianBlur(cover, (0, 0), 0.01 * c.size + 0.3), 0.5)
    near, far, lid = x + width, x + width + dx, y - height
    fill_polygons(c, [((x, y), (near, y), (near, lid), (x, lid))], colour, "object")
    fill_polygons(c, [((near, y), (far, y - dy), (far, lid - dy), (near, lid))], 0.6 * colour, "object")
    fill_polygons(c, [((x, lid), (near, lid), (far, lid - dy), (x + dx, lid - dy))], 0.8 + 0.2 * colour, "object")


def bush(c: Canvas, x: float, y: float, radius: float) -> None:
    """Paint a ragged bush or crown of leaves."""
    c = c.part(x - 1.5 * radius, y - 1.3 * radius, x + 1.5 * radius, y + 1.3 * radius)
    rough = noise(c, 14, 14, 3)
    away = np.sqrt((c.x - x) ** 2 + (1.2 * (c.y - y)) ** 2) - radius * (0.88 + 0.2 * rough)
    lit = 0.85 + 0.3 * rough + 0.5 * (y - c.y) / radius
    c.paint(inside(away, 1.5 / c.size), np.clip(c.pick("leaf") * lit, 0, 1), "vegetation")


def lamp(c: Canvas, x: float, foot: float) -> None:
    """Paint a street lamp."""
    top, colour = c.between(0.1, 0.35), c.pick("metal")
    post(c, x, top, foot, 0.022, colour, "metal")
    c = c.part(x - 0.04, top - 0.04, x + 0.04, top + 0.04)
    globe = np.sqrt((c.x - x) ** 2 + (c.y - top) ** 2) - 0.04
    c.paint(inside(globe, 1 / c.size), hex_colour("f4e6bc") * (1 + 4 * (top - c.y)), "object")


def occluders(c: Canvas, indoors: bool = False, foot: float = 0.96) -> None:
    """Paint none, one or two things standing in front: a ball or a box, and out of doors a bush, a lamp or a tree."""
    for _ in range(int(c.rng.choice(3, p=(0.6, 0.3, 0.1)))):
        x, kind = c.between(0.1, 0.9), int(c.rng.integers(2 if indoors else 5))
        if kind == 0:
            ball(c, x, foot - 0.1, c.between(0.06, 0.12), c.pick("fruit"))
        elif kind == 1:
            box(c, min(x, 0.7), foot, c.between(0.1, 0.18), c.between(0.1, 0.22), c.pick("wood"))
        elif kind == 2:
            bush(c, x, foot, c.between(0.1, 0.2))
        elif kind == 3:
            lamp(c, x, foot)
        else:
            top = c.between(0.15, 0.45)
            post(c, x, top, foot, 0.04, c.pick("wood"), "wood")
            bush(c, x, top, c.between(0.12, 0.2))


def shadow(c: Canvas) -> None:
    """Cast, in some of the scenes, a shadow on a wall or floor: a straight edge, or leaves out of sight."""
    angle, place, soft = c.between(0, 2 * math.pi), c.between(-0.25, 0.25), c.between(0.01, 0.05)
    strength, kind = c.between(0.2, 0.42), c.rng.random()
    edge = math.cos(angle) * (c.x - 0.5) + math.sin(angle) * (c.y - 0.5) + place
    if kind < 0.25:
        c.shade(inside(edge, soft), strength)
    elif kind < 0.42:
        c.shade(inside(edge - 0.25 + 0.45 * noise(c, 12, 12, 3), 0.4 + 3 * soft), strength)


def sunlight(c: Canvas) -> None:
    """Light the finished picture: a gentle gradient, a warm or cool tint, and a little grain."""
    angle, amount, warmth = c.between(0, 2 * math.pi), c.between(0.05, 0.45), c.between(-0.06, 0.06)
    slope = math.cos(angle) * (c.x - 0.5) + math.sin(angle) * (c.y - 0.5)
    knots = c.rng.uniform(-1, 1, (128, 128)).astype(np.float32)
    method = cv2.INTER_AREA if c.size < 128 else cv2.INTER_CUBIC
    grain = 1 + 0.02 * cv2.resize(knots, (c.size, c.size), interpolation=method)
    c.image *= c.between(0.82, 1.02) * (1 + amount * slope) * grain
    c.image[0] *= np.float32(1 + warmth)
    c.image[2] *= np.float32(1 - warmth)


# ------------------------------------------------------------------------------------------------ structured scenes


def draw_bricks(c: Canvas) -> None:
    """A wall of bricks, plain or in bands of two colours, or of dressed stone."""
    rows, dressed = c.between(6, 13), c.chance(0.25)
    rows *= 0.7 if dressed else 1
    p = wall(c, (rows * c.between(0.4, 0.55), rows))
    colour = c.pick("stone" if dressed else "brick")
    joint = jointing(c, colour)
    if c.chance(0.3):
        colour = mix(colour, c.pick("plaster"), bars(p.v / 4, 0.25, p.dv / 4) * c.between(0.4, 0.8))
    gap, bond = c.between(0.05, 0.09), (0.5, 0.5, 0.33)[c.rng.integers(3)]
    c.fill(brickwork(c, p, colour, joint, (gap, 1.8 * gap), bond), "stone" if dressed else "brick")
    c.image *= 1 + 0.08 * noise(c, 3, 3, 2)
    shadow(c)
    occluders(c)


def draw_windows(c: Canvas) -> None:
    """A façade with a grid of windows, sometimes the sky above it."""
    sky(c)
    floors = c.between(4, 8)
    p = wall(c, (floors * c.between(0.8, 1.3), floors))
    body = inside(math.floor(p.middle[1] - floors * c.between(0.1, 0.8)) - p.v, p.dv)
    label, colour = "wall", c.pick("plaster") * (1 + 0.06 * noise(c, 6, 6, 3))
    if c.chance(0.3):
        label, colour = "brick", brickwork(c, p.finer(3, 6), c.pick("brick"), c.pick("mortar"), (0.05, 0.1), 0.5)
    c.paint(body, colour, label)
    wide, tall = c.between(0.4, 0.66), c.between(0.5, 0.68)
    trim = mix(c.pick("cream"), c.pick("paint"), c.between(0, 0.6))
    if c.chance(0.6):
        c.paint(body * bars(p.v, 0.08, p.dv, 0.02), trim * 0.92, "wall")
    left, border = 0.5 - wide / 2, c.between(0, 0.07)
    across = bars(p.u, wide, p.du, left)
    surround = bars(p.u, wide + 2 * border, p.du, left - border) * bars(p.v, tall + 2 * border, p.dv, 0.2 - border)
    c.paint(body * surround, trim, "wall")
    c.paint(body * across * bars(p.v, tall, p.dv, 0.2), glass(c, p), "window")
    panes, cross = int(c.rng.integers(2, 4)), 0.2 + tall * c.between(0.3, 0.6)
    upright = bars((p.u - left) * panes / wide, 0.16, p.du * panes / wide, -0.08)
    c.paint(body * across * np.maximum(upright, bars(p.v, 0.05, p.dv, cross)) * bars(p.v, tall, p.dv, 0.2), trim * 0.95)
    c.shade(body * across * bars(p.v, 0.07, p.dv, 0.2), 0.5)
    occluders(c)


def draw_tiles(c: Canvas) -> None:
    """Glazed tiles on a wall or floor, plain, striped or as a chequerboard, straight or on their corners."""
    count, turn = c.between(4, 9), (0.0, math.pi / 4, c.between(-0.4, 0.4))[c.rng.integers(3)]
    p = wall(c, (count, count), turn) if c.chance(0.5) else plane(c, (0, 1.5 * c.perspective), (count, count), turn)
    first, second, gap = c.pick("tile"), c.pick("tile"), c.between(0.04, 0.09)
    c.fill(brickwork(c, p, mix(first, second, chequer(c, p)), jointing(c, first), (gap, gap), 0), "tile")
    shadow(c)
    occluders(c, indoors=True)


def draw_planks(c: Canvas) -> None:
    """Boards side by side, upright, lying or aslant."""
    p = wall(c, (c.between(5, 11), 1.5), (0.0, math.pi / 2, c.between(-0.6, 0.6))[c.rng.integers(3)])
    colour = 0.1 + 0.9 * c.pick("wood" if c.chance(0.6) else "paint")  # gaps must show on black paint, too
    if c.chance(0.25):
        colour = mix(colour, c.pick("wood"), bars(p.u / 2, 0.5, p.du / 2) * 0.7)
    c.fill(boards(c, p, colour, c.between(0.08, 0.14)), "wood")
    shadow(c)
    occluders(c)


def draw_fence(c: Canvas) -> None:
    """A picket fence before a landscape."""
    backdrop(c, c.between(0.3, 0.55))
    p = wall(c, (c.between(6, 11), 1))
    top, wide, slant = p.middle[1] - c.between(0.25, 0.42), c.between(0.5, 0.7), c.between(0, 0.4)
    colour = c.pick(("wood", "cream", "paint")[c.rng.integers(3)])

    def pickets(u: Array) -> Array:
        head = top - p.v + slant * np.abs(u - np.floor(u) - 0.5)  # pointed or flat
        return bars(u, wide, p.du, 0.5 - wide / 2) * inside(head, p.dv) * inside(p.v - top - 0.85, p.dv)

    for rail in (0.14, 0.47):
        c.paint(span(p.v, top + rail, top + rail + 0.06, p.dv), colour * 0.75, "wood")
    c.paint(pickets(p.u - 0.07), colour * 0.55, "wood")
    grain = 0.1 * vary(c, p.u, np.zeros_like(p.v), p.du) + 0.08 * noise_on(c, p, 8, 6)
    c.paint(pickets(p.u), colour * (1 + grain), "wood")
    occluders(c)


def draw_railing(c: Canvas) -> None:
    """An iron railing before water or a street."""
    backdrop(c, c.between(0.25, 0.5))
    p = wall(c, (c.between(7, 12), 1))
    top, colour, wide = p.middle[1] - c.between(0.25, 0.4), 0.75 * c.pick("metal"), c.between(0.16, 0.26)
    body = span(p.v, top, top + 0.8, p.dv)
    c.paint(bars(p.u, wide, p.du) * body, colour * 1.1, "metal")
    for place in (0, 0.16, 0.7):
        c.paint(span(p.v, top + place, top + place + 0.035, p.dv), colour, "metal")
    c.paint(bars(p.u / 4, 0.12, p.du / 4) * span(p.v, top - 0.06, top + 0.8, p.dv), colour * 0.9, "metal")
    c.paint(inside(top + 0.78 - p.v, p.dv), c.pick("stone") * (1 + 0.1 * noise(c, 16, 16, 3)), "stone")
    occluders(c)


def draw_scaffold(c: Canvas) -> None:
    """A scaffold before a wall, usually with a ladder leaning on it."""
    levels = c.between(3.5, 6)
    p = wall(c, (levels * c.between(0.8, 1.2), levels))
    c.fill(c.pick("plaster") * (1 + 0.08 * noise(c, 5, 5, 4)), "wall")
    if c.chance(0.35):
        c.fill(brickwork(c, p.finer(2, 4), c.pick("brick"), c.pick("mortar"), (0.06, 0.12), 0.5), "brick")
    tube = c.between(0.07, 0.11)

    def frame(offset: float) -> Array:
        return np.maximum(bars(p.u, tube, p.du, offset), bars(p.v, tube, p.dv, offset))

    c.shade(frame(0.12), 0.35)
    c.paint(bars(p.v, 0.14, p.dv, 0.08), c.pick("wood"), "wood")
    c.paint(frame(0), c.pick("metal"), "metal")
    if c.chance(0.7):
        ladder(c, c.between(0.15, 0.85))


def ladder(c: Canvas, x: float) -> None:
    """Paint a ladder leaning at x, with its shadow to the right."""
    lean, colour, half = c.between(-0.2, 0.2), c.pick("wood"), c.between(0.05, 0.08)
    steps = np.linspace(1.05, c.between(0, 0.3), int(c.rng.integers(12, 18)))
    middle = x + lean * (1 - steps)
    rungs = [s for m, y in zip(middle, steps, strict=True) for s in stroke(((m - half, y), (m + half, y)), 0.018)]
    rails = [stroke(((middle[0] + d, 1.05), (middle[-1] + d, steps[-1] - 0.03)), 0.024)[0] for d in (-half, half)]
    shift = np.array((0.035, 0.015))
    part, cover = stencil(c, [quad + shift for quad in rungs + rails])
    part.shade(cover, 0.4)
    fill_polygons(c, rungs, colour * 0.85, "wood")
    fill_polygons(c, rails, colour, "wood")


def draw_awning(c: Canvas) -> None:
    """A striped awning above a shop window."""
    c.fill(c.pick("plaster") * (1 + 0.07 * noise(c, 6, 6, 3)), "wall")
    p = wall(c, (c.between(7, 14), 1))
    drop, top = p.middle[1] + c.between(0.0, 0.25), p.middle[1] - c.between(0.38, 0.7)
    c.paint(span(p.v, drop, drop + 0.45, p.dv) * bars(p.u / 2, 0.88, p.du / 2), glass(c, p), "window")
    across = 2 * (p.u - np.floor(p.u)) - 1
    scallop = drop + 0.07 * np.sqrt(np.clip(1 - across**2, 0, 1))
    c.shade(span(p.v, drop, drop + 0.2, p.dv), 0.4)
    stripes = mix(c.pick("fabric"), c.pick("cream"), bars(p.u / 2, 0.5, p.du / 2))
    slope = 1.05 - 0.25 * np.clip((p.v - top) / (drop - top), 0, 1) - 0.2 * inside(drop - 0.04 - p.v, p.dv)
    c.paint(inside(p.v - scallop, p.dv) * inside(top - p.v, p.dv), stripes * slope, "fabric")
    occluders(c)


def draw_books(c: Canvas) -> None:
    """Sets of books on shelves."""
    shelves = c.between(2.6, 4.2)
    p = wall(c, (shelves * c.between(3, 4.5), shelves))
    rows = np.zeros_like(p.u)
    c.fill(c.pick("wood") * 0.35, "opening")
    bindings = mix(c.pick("book"), c.pick("book"), 0.5 + 0.5 * vary(c, rows, p.v))
    spine = bindings * (1 + 0.14 * vary(c, p.u, p.v, p.du)) * (0.75 + 0.5 * bars(p.u, 0.5, p.du + 0.3, 0.1))
    gilt = bars(p.v, 0.04, p.dv, 0.36) + bars(p.v, 0.04, p.dv, 0.74)
    spine = mix(spine, hex_colour("d2b46a"), 0.8 * gilt)
    height = 0.2 + 0.06 * vary(c, p.u, p.v, p.du)
    books = bars(p.u, 0.88, p.du, 0.06) * inside(height - (p.v - np.floor(p.v)), p.dv)
    c.paint(books, spine, "book")
    c.paint(bars(p.v, 0.12, p.dv, -0.06), c.pick("wood") * (1 + 0.08 * noise(c, 2, 24, 2)), "wood")
    shadow(c)
    occluders(c, indoors=True)


def draw_paving(c: Canvas) -> None:
    """A paved square going away to the horizon."""
    count = c.between(3, 6)
    p, horizon = floor(c, (count, count), (0.0, math.pi / 4, c.between(-0.5, 0.5))[c.rng.integers(3)])
    vista(c, horizon, 0.3)
    first, second, gap, bond = c.pick("stone"), c.pick("soil"), c.between(0.04, 0.08), 0.5 if c.chance(0.4) else 0
    slabs = brickwork(c, p, mix(first, second, chequer(c, p)), jointing(c, first), (gap, gap), bond)
    c.paint(below(c, horizon), slabs, "stone")
    occluders(c)


def draw_railway(c: Canvas) -> None:
    """Railway tracks going away to the horizon, with posts and wires beside them."""
    p, horizon = floor(c, (c.between(0.7, 1.3), c.between(6, 9)))
    vista(c, horizon)
    land = below(c, horizon)
    c.paint(land, c.pick("soil") * (0.9 + 0.25 * noise_on(c, p, 20, 3)), "ground")
    track = land * bars(p.u, 0.62, p.du, 0.19)
    c.shade(track * bars(p.v, 0.15, p.dv, 0.42), 0.4)
    c.paint(track * bars(p.v, 0.42, p.dv), c.pick("wood") * (0.9 + 0.15 * noise_on(c, p, 4, 4)), "wood")
    for rail in (0.28, 0.66):
        c.shade(land * bars(p.u, 0.06, p.du, rail + 0.03), 0.5)
        c.paint(land * bars(p.u, 0.05, p.du, rail), c.pick("stone") * 1.2, "metal")
    if horizon > 0.05:
        wires(c, horizon)


def wires(c: Canvas, horizon: float) -> None:
    """Paint a row of telegraph posts going away to the vanishing point, with the wires between them."""
    side, colour = (-1 if c.chance(0.5) else 1), 0.6 * c.pick("metal")
    near = c.between(0.7, 1.4) / np.arange(1, 8)  # equal steps into the distance
    x, top, foot = 0.5 + side * c.between(0.3, 0.47) * near, horizon * (1 - near), horizon + 0.4 * near
    quads = [stroke(((a, t), (a, f)), 0.028 * n)[0] for a, t, f, n in zip(x, top, foot, near, strict=True)]
    arms = [stroke(((a - 0.07 * n, t), (a + 0.07 * n, t)), 0.02 * n)[0] for a, t, n in zip(x, top, near, strict=True)]
    lines = [q for d in (-0.06, 0.06) for q in stroke(np.stack((x + d * near, top), 1), 0.006)]
    fill_polygons(c, quads + arms + lines, colour, "metal")


def draw_stairs(c: Canvas) -> None:
    """A broad flight of steps between two walls."""
    p = plane(c, (0, 1.3 * c.perspective), (2, c.between(6, 11)))
    colour, share = c.pick("stone" if c.chance(0.6) else "plaster"), c.between(0.45, 0.6)
    sun, risers = 1 if c.chance(0.5) else -1, bars(p.v, share, p.dv)
    steps = colour * (1 + 0.06 * noise_on(c, p, 10, 4) + 0.1 * noise(c, 4, 4, 3)) * (1.05 - 0.4 * risers)
    c.fill(steps, "stone")
    c.shade(bars(p.v, 0.1, p.dv, -0.05), 0.55)
    middle, reach = p.middle[0], c.between(0.6, 1.1)
    colour, rail = c.pick("plaster"), c.pick("metal")
    for side in (-1, 1):
        beyond = inside(reach - side * (p.u - middle), p.du)
        c.paint(beyond, colour * (0.85 + 0.2 * side * sun) * (1 + 0.06 * noise(c, 6, 6, 3)), "wall")
        c.paint(span(side * (p.u - middle), reach - 0.1, reach, p.du), rail, "metal")
    shadow(c)
    occluders(c)


def draw_bridge(c: Canvas) -> None:
    """A suspension bridge: hangers at equal steps below a sagging cable, over water."""
    horizon = c.between(0.6, 0.75)
    vista(c, horizon)
    ground(c, horizon, "water", "water")
    p = wall(c, (c.between(9, 16), 1))
    colour, deck, sag = 0.8 * c.pick("metal"), p.middle[1] + c.between(0.1, 0.2), c.between(0.35, 0.5)
    reach = c.between(10, 15)  # from tower to tower, in hangers
    along = (p.u - p.middle[0]) / reach + c.between(-0.4, 0.4)
    along = 2 * (along - np.floor(along)) - 1
    cable = deck - 0.06 - 2 * sag * along**2
    tower = inside((0.94 - np.abs(along)) * reach / 2, p.du) * span(p.v, deck - 2 * sag - 0.1, deck + 0.3, p.dv)
    c.paint(bars(p.u, 0.16, p.du) * span(p.v, cable, deck, p.dv), colour, "metal")
    c.paint(inside(np.abs(p.v - cable) - 0.02, p.dv + 4 * sag / reach * p.du), colour * 1.1, "metal")
    c.paint(tower, colour * 1.2, "metal")
    c.paint(span(p.v, deck, deck + 0.07, p.dv), colour * (0.9 - 0.3 * bars(p.u, 0.5, p.du)), "metal")


def draw_roof(c: Canvas) -> None:
    """A roof of scalloped tiles, sometimes with the sky above its ridge."""
    sky(c)
    rows = c.between(6, 11)
    tilt = (c.between(-0.8, 0.8) * c.perspective, 1.1 * c.perspective)
    p = plane(c, tilt, (rows * c.between(0.6, 1), rows), c.between(-0.2, 0.2))
    u = p.u + 0.5 * np.floor(p.v)
    across, down = 2 * (u - np.floor(u)) - 1, p.v - np.floor(p.v)
    power = (1.0, 1.5, 2.0, 2.0, 6.0)[c.rng.integers(5)]  # pointed, scalloped or straight
    curve = 0.4 + 0.5 * (1 - np.abs(across) ** power) ** (1 / power)  # a tile's lower edge within its row
    below = inside(curve - down, p.dv)
    tile = 0.85 + 0.3 * down + 0.12 * vary(c, u, p.v, p.du)
    under = 0.95 - 0.25 * np.clip(1 - (down - curve) * 4, 0, 1) + 0.04 * across
    texture = mix(tile, under, below) * (1 - 0.55 * inside(np.abs(down - curve - 0.04) - 0.05, p.dv))
    body = inside(math.floor(p.middle[1] - c.between(0.2, 1.2) * rows) - p.v, p.dv)
    c.paint(body, c.pick("slate") * texture * (1 + 0.07 * noise(c, 8, 8, 3)), "tile")


def draw_arcade(c: Canvas) -> None:
    """A row of arches, one or more storeys."""
    sky(c)
    storeys, stretch = c.between(1.8, 4), c.between(1.3, 2.0)
    p = wall(c, (storeys * stretch, storeys))
    body = inside(math.floor(p.middle[1] - c.between(0.1, 0.9) * storeys) - 0.07 - p.v, p.dv)
    colour = c.pick("stone" if c.chance(0.5) else "plaster")
    c.paint(body, brickwork(c, p.finer(3, 7), colour, colour * 0.72, (0.05, 0.1), 0.5), "wall")
    across, down = p.u - np.floor(p.u) - 0.5, p.v - np.floor(p.v)
    half, rise = c.between(0.28, 0.36), np.minimum(stretch * (down - 0.5), 0)
    radius = np.sqrt(across**2 + rise**2)
    for grow, tone, name in ((0.07, colour * 1.15, "wall"), (0.0, c.pick("glass") * (0.35 + 0.6 * down), "opening")):
        c.paint(body * inside(radius - half - grow, p.du) * inside(down - 0.93, p.dv), np.clip(tone, 0, 1), name)
    c.paint(body * bars(p.v, 0.07, p.dv, -0.07), colour * 1.2, "wall")
    occluders(c)


# ------------------------------------------------------------------------------------------------------ free scenes


def draw_hills(c: Canvas) -> None:
    """Clouds over hills."""
    sky(c)
    horizon = c.between(0.5, 0.95)
    if c.chance(0.3):
        away = np.sqrt((c.x - c.between(0.1, 0.9)) ** 2 + (c.y - c.between(0.1, 0.5)) ** 2)
        c.paint(np.clip(inside(away - 0.05, 1 / c.size) + 0.5 * np.exp(-12 * away), 0, 1), hex_colour("fff4d6"))
    hills(c, horizon, int(c.rng.integers(2, 5)))
    ground(c, horizon, "leaf" if c.chance(0.6) else "soil", "vegetation")
    for _ in range(int(c.rng.integers(0, 4))):
        bush(c, c.between(0, 1), c.between(horizon, 1), c.between(0.05, 0.14))
    if c.chance(0.35):
        wires(c, horizon)


def draw_meadow(c: Canvas) -> None:
    """Tall grass with flowers, and trees behind."""
    horizon = c.between(0.05, 0.45)
    sky(c)
    for _ in range(int(c.rng.integers(2, 6))):
        bush(c, c.between(0, 1), horizon, c.between(0.08, 0.22))
    ground(c, horizon, "leaf", "vegetation")
    near = np.clip((c.y - horizon) / (1 - horizon), 0, 1)
    c.image *= 1 + 0.45 * near * noise(c, int(c.rng.integers(16, 50)), 6, 3)
    flowers = noise(c, 40, 40, 1)
    c.paint(np.clip(4 * (flowers - c.between(0.7, 1.0)), 0, 1) * near, c.pick("fruit"))


def boat(c: Canvas, x: float, y: float, height: float) -> None:
    """Paint a small sailing boat, its hull at (x, y)."""
    bow, boom = 0.45 * height * (1 if c.chance(0.5) else -1), y - 0.1 * height
    hull = stroke(((x - 0.6 * bow, y), (x + bow, y)), 0.14 * height)
    fill_polygons(c, [((x, y - height), (x + bow, boom), (x, boom))], c.pick("cream"), "object")
    fill_polygons(c, [((x, y - 0.8 * height), (x - 0.6 * bow, boom), (x, boom))], c.pick("fabric"), "object")
    fill_polygons(c, hull, c.pick("paint"), "object")


def draw_water(c: Canvas) -> None:
    """Open water with waves and the light on them, a far or near shore, and boats."""
    horizon, coast = c.between(0.15, 0.6), c.chance(0.5)
    sky(c)
    if coast:
        hills(c, horizon, int(c.rng.integers(1, 3)))
    ground(c, horizon, "water", "water")
    p = plane(c, (0, 1 / (0.5 - horizon) if horizon < 0.45 else 20), (6, 6))
    waves = noise_on(c, p, c.between(0.5, 1.4), c.between(1.5, 4)) + 0.7 * noise(c, 8, 40, 2)
    sea = below(c, horizon)
    c.image *= 1 + c.between(0.12, 0.34) * waves * sea
    glint = np.exp(-(((c.x - c.between(0.1, 0.9)) / c.between(0.08, 0.3)) ** 2))
    c.paint(sea * glint * np.clip(waves, 0, 1) * c.between(0.3, 1), hex_colour("fff2d8"))
    for y in np.sort(c.rng.uniform(horizon, 0.9, int(c.rng.integers(4)) + (not coast))):  # near ones last
        boat(c, c.between(0.1, 0.9), float(y), c.between(0.08, 0.14) + 0.3 * (float(y) - horizon))


def pebbles(c: Canvas, u: Array, v: Array) -> tuple[Array, Array]:
    """Return, for jittered points one to a cell, the gap between nearest and second-nearest, and a number -1…1 each."""
    jitter = c.rng.uniform(0.1, 0.9, (2, 32, 32)).astype(np.float32)
    tones = c.rng.uniform(-1, 1, (32, 32)).astype(np.float32)
    column, row = np.floor(u), np.floor(v)
    right, down = (u - column).astype(np.float64), (v - row).astype(np.float64)  # place within the cell
    cell = 32 * (row.astype(np.int32) & 31) + (column.astype(np.int32) & 31)
    shape = np.broadcast_shapes(u.shape, v.shape)
    first, second, nearest = np.full(shape, 81.0), np.full(shape, 81.0), np.zeros(shape, np.uint8)  # squared distances
    neighbours = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    for index, (i, j) in enumerate(neighbours):
        x, y = (np.roll(t, (-j, -i), (0, 1)) for t in jitter.astype(np.float64))
        away = ((x + i).take(cell, mode="wrap") - right) ** 2 + ((y + j).take(cell, mode="wrap") - down) ** 2
        np.minimum(second, np.maximum(first, away), out=second)
        nearest += (away < first).view(np.uint8) * (np.uint8(index) - nearest)
        np.minimum(first, away, out=first)
    moved = np.stack([np.roll(tones, (-j, -i), (0, 1)) for i, j in neighbours])
    return np.sqrt(second) - np.sqrt(first), moved.take(1024 * nearest.astype(np.int32) + cell)


def draw_stones(c: Canvas) -> None:
    """Pebbles on a beach, or a wall of rough stones."""
    count = c.between(4, 9)
    p = plane(c, (0, 1.5 * c.perspective), (count, count * c.between(0.9, 1.6)), c.between(-0.5, 0.5))
    gap, tone = pebbles(c, p.u, p.v)
    dome = np.clip(1.6 * gap, 0, 1) ** 0.5
    colour = mix(c.pick("stone"), c.pick("soil"), 0.5 + 0.5 * tone) * (1 + 0.2 * tone)
    lit = 0.35 + 0.75 * dome + 0.08 * noise(c, 20, 20, 3)
    c.fill(colour * lit, "stone")


def draw_still_life(c: Canvas) -> None:
    """Balls and boxes on a table, hiding one another."""
    edge, table = c.between(0.3, 0.6), c.pick("wood" if c.chance(0.6) else "fabric")
    c.fill(c.pick("plaster") * (1.05 - 0.5 * c.x * c.between(0, 1)) * (1 + 0.06 * noise(c, 4, 4, 3)), "wall")
    c.paint(below(c, edge), table * (0.8 + 0.4 * c.y) * (1 + 0.08 * noise(c, 3, 24, 3)), "wood")
    for y in np.sort(c.rng.uniform(edge + 0.08, 0.95, int(c.rng.integers(4, 8)))):
        if c.chance(0.6):
            radius = c.between(0.07, 0.15)
            ball(c, c.between(0.1, 0.9), y - radius, radius, c.pick("fruit"))
        else:
            box(c, c.between(0.0, 0.75), y, c.between(0.12, 0.22), c.between(0.1, 0.4), c.pick("fruit"))


# ---------------------------------------------------------------------------------------------------------- the table


class Kind(NamedTuple):
    """How to draw a scene class, its family, and the least and greatest perspective drawn when none is asked for."""

    draw: Callable[[Canvas], None]
    family: str
    perspective: tuple[float, float]


CLASSES: dict[str, Kind] = {
    "bricks":     Kind(draw_bricks,     "structured", (0.0, 1.0)),
    "windows":    Kind(draw_windows,    "structured", (0.0, 1.0)),
    "tiles":      Kind(draw_tiles,      "structured", (0.0, 1.0)),
    "planks":     Kind(draw_planks,     "structured", (0.0, 1.0)),
    "fence":      Kind(draw_fence,      "structured", (0.0, 1.0)),
    "railing":    Kind(draw_railing,    "structured", (0.0, 1.0)),
    "scaffold":   Kind(draw_scaffold,   "structured", (0.0, 1.0)),
    "awning":     Kind(draw_awning,     "structured", (0.0, 1.0)),
    "books":      Kind(draw_books,      "structured", (0.0, 1.0)),
    "paving":     Kind(draw_paving,     "structured", (0.5, 1.0)),
    "railway":    Kind(draw_railway,    "structured", (0.6, 1.0)),
    "stairs":     Kind(draw_stairs,     "structured", (0.0, 1.0)),
    "bridge":     Kind(draw_bridge,     "structured", (0.0, 1.0)),
    "roof":       Kind(draw_roof,       "structured", (0.0, 1.0)),
    "arcade":     Kind(draw_arcade,     "structured", (0.0, 1.0)),
    "hills":      Kind(draw_hills,      "free",       (0.0, 0.0)),
    "meadow":     Kind(draw_meadow,     "free",       (0.0, 0.0)),
    "water":      Kind(draw_water,      "free",       (0.0, 0.0)),
    "stones":     Kind(draw_stones,     "free",       (0.0, 1.0)),
    "still_life": Kind(draw_still_life, "free",       (0.0, 0.0)),
}  # fmt: skip
SCENE_CLASSES: tuple[str, ...] = tuple(CLASSES)
STRUCTURED: frozenset[str] = frozenset(name for name, kind in CLASSES.items() if kind.family == "structured")


def draw_scene(
    seed: int | Sequence[int], size: int = 128, scene_class: str | None = None, perspective: float | None = None
) -> Scene:
    """Draw the scene of a seed: the same arguments always give the same pixels, and any size the same place.

    seed goes to np.random.default_rng; size is the side in pixels, at least 16.  scene_class is one of SCENE_CLASSES,
    perspective 0 (seen straight on) … 1 (strongest), each taken from the seed when None; classes without a plane (the
    table says 0.0, 0.0) ignore it and report 0.  Raises ValueError for a bad size, class or perspective.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")
    if perspective is not None and not 0 <= perspective <= 1:
        raise ValueError(f"perspective must be between 0 and 1, not {perspective}")
    if scene_class is not None and scene_class not in CLASSES:
        near = difflib.get_close_matches(str(scene_class), SCENE_CLASSES, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown scene class {scene_class!r}{hint}; the classes are: {', '.join(SCENE_CLASSES)}")
    rng = np.random.default_rng(seed)
    # Both draws are made even when the caller decides, so that the rest of the scene does not change with the choice.
    drawn, strength = SCENE_CLASSES[rng.integers(len(SCENE_CLASSES))], rng.random() ** 1.5
    name = scene_class or drawn
    least, greatest = CLASSES[name].perspective
    strength = least + (greatest - least) * strength if perspective is None or greatest == 0 else float(perspective)
    canvas = Canvas(size, rng, strength)
    CLASSES[name].draw(canvas)
    sunlight(canvas)
    pixels = canvas.image
    pixels *= 255
    pixels += 0.5
    image = cv2.merge(list(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)))
    return Scene(image, canvas.labels, name, strength)
