"""Masks: which pixels are missing (LaMa, Section 2.3 and supplementary). True = hole.

Large masks are half of the paper's message: a generator trained on thin scratches learns to smear, one trained on wide
strokes and boxes learns to invent. A recipe is a set of ranges; every mask is drawn from an explicit NumPy generator,
so that the same seed gives the same mask in every process and on every machine.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lama_minimal.config import UserError, suggest

DIRECTIONS = 0.01 + np.arange(4)
"""Angles of a stroke's segments, radians: four, about 57° apart, mirrored on every second stroke."""

BASE_SIZE = 256
"""Recipes without a size in their name are stated for pictures of this side, pixels."""


@dataclass(frozen=True)
class MaskRecipe:
    """Ranges from which a mask is drawn; each pair is (least, most), both included, in pixels where a length."""

    strokes: tuple[int, int]
    """Strokes in a mask; each is a chain of 1 to 5 segments."""
    width: tuple[int, int]
    """Width of a segment."""
    length: tuple[int, int]
    """Length of a segment."""
    box_share: float = 0.0
    """Probability that a mask has boxes instead of strokes."""
    boxes: tuple[int, int] = (0, 0)
    """Boxes in a mask."""
    box_side: tuple[int, int] = (0, 0)
    """Side of a box."""
    margin: int = 0
    """Distance of boxes from the picture's border."""
    most_area: float = 1.0
    """Masks that cover more than this share of the picture are drawn again."""

    def scaled(self, factor: float) -> "MaskRecipe":
        """The same recipe for a picture ``factor`` times as large."""

        def scale(pair: tuple[int, int]) -> tuple[int, int]:
            return tuple(max(1, round(value * factor)) for value in pair)

        return replace(
            self,
            width=scale(self.width),
            length=scale(self.length),
            box_side=scale(self.box_side),
            margin=round(self.margin * factor),
        )


#                            strokes  width     length     share  boxes   side       margin
RECIPES: dict[str, MaskRecipe] = {
    "wide":       MaskRecipe((1, 6),  (5, 104), (10, 209), 0.5,   (1, 4), (30, 150), 10),
    "narrow":     MaskRecipe((4, 13), (5, 44),  (10, 89),  0.5,   (1, 1), (30, 128), 0),
    "thin":       MaskRecipe((4, 51), (5, 14),  (10, 49),  most_area=0.5),
    "medium":     MaskRecipe((4, 6),  (5, 54),  (10, 109), 0.23,  (1, 5), (10, 50),  0,  0.5),
    "thick":      MaskRecipe((1, 6),  (5, 104), (10, 209), 0.23,  (1, 3), (30, 150), 10, 0.5),
    "thin-512":   MaskRecipe((4, 71), (5, 24),  (10, 109), most_area=0.5),
    "medium-512": MaskRecipe((4, 11), (5, 104), (10, 209), 0.23,  (1, 5), (30, 150), 0,  0.5),
    "thick-512":  MaskRecipe((1, 6),  (5, 254), (10, 459), 0.23,  (1, 4), (30, 300), 10, 0.5),
}  # fmt: skip
"""Training: wide (the paper's) and narrow (as DeepFill v2). Evaluation: thin, medium, thick, at 256 and 512 pixels."""


def recipe_for(name: str, size: int) -> MaskRecipe:
    """The recipe ``name`` for pictures with a shorter side of ``size`` pixels.

    Training recipes and sizes other than 512 are scaled from 256 pixels; at 512 the evaluation recipes are the
    paper's own for that size.

    Raises:
        UserError: no such recipe.
    """
    if size == 512 and f"{name}-512" in RECIPES:
        return RECIPES[f"{name}-512"]
    if name not in RECIPES:
        raise UserError(f"unknown mask recipe {name!r}; {suggest(name, RECIPES)}")
    return RECIPES[name].scaled(size / (512 if name.endswith("-512") else BASE_SIZE))


def _draw_strokes(mask: np.ndarray, recipe: MaskRecipe, rng: np.random.Generator) -> None:
    """Chains of thick segments with round ends; each segment starts where the one before ended."""
    height, width = mask.shape
    for stroke in range(rng.integers(*recipe.strokes, endpoint=True)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        for _ in range(rng.integers(1, 5, endpoint=True)):
            angle = DIRECTIONS[rng.integers(len(DIRECTIONS))] * (-1 if stroke % 2 == 0 else 1)
            length = rng.integers(*recipe.length, endpoint=True)
            thickness = int(rng.integers(*recipe.width, endpoint=True))
            end_x = min(max(int(x + length * math.sin(angle)), 0), width)
            end_y = min(max(int(y + length * math.cos(angle)), 0), height)
            cv2.line(mask, (x, y), (end_x, end_y), 1, thickness)
            x, y = end_x, end_y


def _draw_boxes(mask: np.ndarray, recipe: MaskRecipe, rng: np.random.Generator) -> None:
    """Rectangles at least ``margin`` from the border; sides shrink where the picture is too small."""
    for _ in range(rng.integers(*recipe.boxes, endpoint=True)):
        spans = []
        for side in mask.shape:
            room = max(1, side - 2 * recipe.margin)
            least, most = (min(value, room) for value in recipe.box_side)
            extent = int(rng.integers(least, most, endpoint=True))
            start = recipe.margin + int(rng.integers(room - extent, endpoint=True))
            spans.append(slice(start, start + extent))
        mask[tuple(spans)] = 1


def draw_mask(recipe: MaskRecipe, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw one mask, never empty.

    Args:
        recipe: ranges to draw from.
        size: (H, W) in pixels.
        rng: where the randomness comes from.

    Returns:
        (H, W) bool, True = hole.
    """
    while True:
        mask = np.zeros(size, np.uint8)
        if rng.random() < recipe.box_share:
            _draw_boxes(mask, recipe, rng)
        else:
            _draw_strokes(mask, recipe, rng)
        if 0 < cv2.countNonZero(mask) <= recipe.most_area * mask.size:
            return mask.view(bool)


def outpainting_mask(
    size: tuple[int, int], rng: np.random.Generator, border: tuple[float, float] = (0.04, 0.25)
) -> np.ndarray:
    """Draw a mask that asks for more picture around a picture: each border is missing with probability ½, one at least.

    Args:
        size: (H, W) in pixels.
        rng: where the randomness comes from.
        border: least and most width of a missing border, as a share of the side it is taken from.

    Returns:
        (H, W) bool, True = hole.
    """
    height, width = size
    missing = rng.random(4) < 0.5
    missing[rng.integers(4)] |= not missing.any()
    share = rng.uniform(*border, size=4)
    top, bottom, left, right = (np.ceil(share * (height, height, width, width)) * missing).astype(int)
    mask = np.ones(size, bool)
    mask[top : height - bottom, left : width - right] = False
    return mask


def mask_area(mask: np.ndarray) -> float:
    """Share of the picture (H, W) that is missing, 0 to 1."""
    return float(np.asarray(mask, bool).mean())


def mask_width(mask: np.ndarray) -> float:
    """Mean Euclidean distance of a missing pixel to the closest known one, pixels; 0 without a hole.

    Area says how much is missing, width how far the network has to look: nearly independent between recipes.
    A picture without a known pixel has no finite width.
    """
    hole = np.asarray(mask, np.uint8)
    if not hole.any():
        return 0.0
    if hole.all():
        return float("inf")
    distance = cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(distance[hole > 0].mean())
