"""Pictures of pictures: one palette and one mask colour for samples, reports and chapters.

Pictures are 8-bit arrays (H, W, 3). Sheets of samples need no Matplotlib; it is imported where a figure is drawn, and
figures are built without pyplot, which leaves no global state behind and needs no screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Triple = tuple[float, float, float]
"""A value and the two ends of its interval."""

PALETTE: dict[str, str] = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "vermilion": "#d55e00",
    "black": "#222222",
    "grey": "#999999",
}
"""Colours that stay apart for colour-blind readers (Okabe and Ito 2008), in the order in which lines take them."""

MASK_COLOUR: tuple[int, int, int] = (236, 64, 150)
"""What is missing: a warm magenta, rare in photographs, and apart from foliage in brightness too."""

MASK_OPACITY = 0.6
"""How much of the mask's colour covers the picture."""


def overlay_mask(image: np.ndarray, mask: np.ndarray, opacity: float = MASK_OPACITY) -> np.ndarray:
    """The picture with the hole tinted in the mask's colour.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.
        opacity: 0 shows the picture, 1 hides what is under the hole.

    Returns:
        (H, W, 3) uint8.
    """
    tinted = (1 - opacity) * image + opacity * np.array(MASK_COLOUR)
    return np.where(np.asarray(mask, bool)[..., None], np.rint(tinted).astype(np.uint8), image)


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longer side at ``side`` pixels.

    Small pictures first grow by a whole factor without smoothing, so that every pixel stays visible; Lanczos and area
    averaging do the rest.

    Args:
        image: (H, W, 3) uint8.
        side: pixels.

    Returns:
        (h, w, 3) uint8 with max(h, w) = ``side``.
    """
    factor = max(1, side // max(image.shape[:2]))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = image.shape[:2]
    if max(height, width) == side:
        return image
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4)


def grid(
    images: Sequence[np.ndarray],
    columns: int,
    titles: Sequence[str] = (),
    side: int | None = None,
    gap: int = 4,
) -> np.ndarray:
    """Pictures in rows, one picture.

    Args:
        images: (H, W, 3) uint8, row after row; sizes may differ, each is centred in its cell.
        columns: pictures in a row.
        titles: written above the columns; none by default.
        side: longer side to which every picture is brought (:func:`enlarge`), pixels; None = as they are.
        gap: between pictures and around them, white, pixels.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: no pictures, no columns, or more titles than columns.
    """
    if not images or columns < 1:
        raise ValueError(f"a grid needs pictures and columns, not {len(images)} and {columns}")
    if len(titles) > columns:
        raise ValueError(f"{len(titles)} titles for {columns} columns")
    if side is not None:
        images = [enlarge(image, side) for image in images]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    head = 16 if titles else 0
    sheet = np.full((head + gap + rows * (height + gap), gap + columns * (width + gap), 3), 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = head + gap + row * (height + gap) + (height - image.shape[0]) // 2
        left = gap + column * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    if titles:
        _write_titles(sheet, titles, [gap + column * (width + gap) for column in range(columns)])
    return sheet


def _write_titles(sheet: np.ndarray, titles: Sequence[str], lefts: Sequence[int]) -> None:
    """Write the columns' titles into the head of the sheet."""
    picture = Image.fromarray(sheet)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for title, left in zip(titles, lefts, strict=False):
        draw.text((left, 3), title, fill=(0, 0, 0), font=font)
    sheet[:] = np.asarray(picture)


def save_sheet(
    path: str | Path,
    images: Sequence[np.ndarray],
    columns: int,
    titles: Sequence[str] = (),
    side: int | None = None,
) -> Path:
    """Write a :func:`grid` as a picture file; the folder is made when it is missing.

    Args:
        path: where to; the ending names the format.
        images: as in :func:`grid`.
        columns: as in :func:`grid`.
        titles: as in :func:`grid`.
        side: as in :func:`grid`.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(images, columns, titles, side)).save(path)
    return path


# ---------------------------------------------------------------------------------------------------- matplotlib


def style() -> dict[str, Any]:
    """Matplotlib's settings for every figure of the project.

    In a notebook ``plt.rcParams.update(style())``; elsewhere ``with matplotlib.rc_context(style()):``.
    """
    from cycler import cycler

    return {
        "axes.prop_cycle": cycler(color=list(PALETTE.values())),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#888888",
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "axes.titlelocation": "left",
        "grid.color": "#e6e6e6",
        "image.interpolation": "nearest",
        "font.size": 9,
        "legend.frameon": False,
        "xtick.labelsize": 9,
        "ytick.labelsize": 8,
        "figure.dpi": 100,
        "savefig.facecolor": "white",
    }


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method: strong blue for the first, which is the one a report is about."""
    colours = ["blue", "orange", "sky", "green", "purple", "vermilion", "black", "grey"]
    return {method: PALETTE[colours[index % len(colours)]] for index, method in enumerate(methods)}


def draw_bars(axes: Axes, groups: Mapping[str, Mapping[str, Triple]], colours: Mapping[str, str]) -> None:
    """Bars with intervals, grouped.

    Args:
        axes: where to draw.
        groups: group → method → (value, low, high).
        colours: method → colour.
    """
    methods = list(colours)
    width = 0.84 / len(methods)
    for index, method in enumerate(methods):
        places = [(at, group[method]) for at, group in enumerate(groups.values()) if method in group]
        x = np.array([at for at, _ in places]) + (index - (len(methods) - 1) / 2) * width
        value, low, high = np.array([triple for _, triple in places], float).reshape(-1, 3).T
        axes.bar(x, value, width * 0.92, color=colours[method], label=method)
        around = np.stack([value - low, high - value]).clip(min=0)
        axes.errorbar(x, value, around, fmt="none", ecolor=PALETTE["black"], elinewidth=1, capsize=2)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", length=0)
    margin = 0.6 if len(groups) > 1 else 1.2  # bars of one group alone would be very broad
    axes.set_xlim(-margin, len(groups) - 1 + margin)
    axes.grid(True, axis="y")


def comparison_figure(
    rows: Sequence[Sequence[np.ndarray]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    charts: Mapping[str, Mapping[str, Mapping[str, Triple]]],
    colours: Mapping[str, str],
    title: str = "",
    cell: int = 192,
) -> Figure:
    """Rows of pictures under titled columns, and below them one bar chart for each entry of ``charts``.

    Args:
        rows: rows of (H, W, 3) uint8 pictures, all rows of one length.
        column_titles: one for each column.
        row_titles: one for each row, written upright on the left.
        charts: chart's title → group → method → (value, low, high).
        colours: method → colour, in the order of the bars.
        title: of the whole figure.
        cell: side of a picture, pixels.

    Returns:
        A figure of 100 dots an inch, ready for ``savefig``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    gap, left, head, chart = 6, 26, 74, 250  # pixels
    width = left + len(column_titles) * (cell + gap) + gap
    pictures = len(rows) * (cell + gap)
    height = head + pictures + chart
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        figure.text(left / width, 1 - 10 / height, title, va="top", fontsize=13, fontweight="bold")
        for column, text in enumerate(column_titles):
            x = left + column * (cell + gap) + cell / 2
            figure.text(x / width, 1 - (head - 6) / height, text, ha="center", va="bottom", fontsize=10)
        for row, (images, text) in enumerate(zip(rows, row_titles, strict=True)):
            top = head + row * (cell + gap)
            middle = 1 - (top + cell / 2) / height
            figure.text(12 / width, middle, text, rotation=90, ha="center", va="center", fontsize=9)
            for column, image in enumerate(images):
                at = (left + column * (cell + gap)) / width, 1 - (top + cell) / height
                axes = figure.add_axes((*at, cell / width, cell / height))
                axes.imshow(enlarge(image, cell))
                axes.set_axis_off()
        _add_charts(figure, charts, colours, chart / height, width)
    return figure


def _add_charts(
    figure: Figure,
    charts: Mapping[str, Mapping[str, Mapping[str, Triple]]],
    colours: Mapping[str, str],
    share: float,
    width: int,
) -> None:
    """Bar charts side by side in the lowest ``share`` of the figure, one legend above them."""
    left, between = 60 / width, 50 / width
    each = (1 - left - 12 / width - between * (len(charts) - 1)) / max(1, len(charts))
    for index, (name, groups) in enumerate(charts.items()):
        axes = figure.add_axes((left + index * (each + between), share * 0.12, each, share * 0.58))
        draw_bars(axes, groups, colours)
        axes.set_title(name)
    if charts:
        handles, labels = axes.get_legend_handles_labels()
        place = (0.5, share * 0.97)
        figure.legend(handles, labels, loc="upper center", ncols=len(colours), bbox_to_anchor=place)
