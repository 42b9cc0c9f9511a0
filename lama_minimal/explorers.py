"""Explorers: figures with sliders, for what the chapters explain.

Each explorer has three parts of its own: a frozen state, ``render_…(state)``, which draws that state and nothing else,
and ``describe_…(state)``, the sentence that says what is to be seen in it (takeaway and alternative text). The shell
around them, ``explore_…()``, is the same for all: a picture, the sentence, and a control for each field of the state.
It needs ``ipywidgets`` (7.7.1 or newer); the renderings do not.

    from lama_minimal.explorers import SpectrumState, explore_spectrum, render_spectrum

    render_spectrum(SpectrumState("fence", peaks=9))  # (H, W, 3) uint8, for example for PIL.Image.fromarray
    explore_spectrum(SpectrumState("fence", peaks=9))  # the same, alive; a saved notebook keeps it as a picture

Shape letters: H × W pixels of a picture, S the side of a square one, C channels.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from einops import rearrange
from PIL import Image

from lama_minimal.checkpoint import load_generator
from lama_minimal.config import UserError, suggest
from lama_minimal.data import centre_square, read_image
from lama_minimal.fourier import FourierUnit, project_hermitian
from lama_minimal.masks import draw_mask, mask_area, mask_width, recipe_for
from lama_minimal.models import DILATIONS, FourierGenerator, Generator, ResidualGenerator, generator_input
from lama_minimal.receptive_field import (
    UpTo,
    Window,
    calibrate,
    effective_field,
    energy_by_distance,
    radius_holding,
    seen,
)
from lama_minimal.scenes import SCENE_CLASSES, draw_scene
from lama_minimal.viz import PALETTE, enlarge, overlay_mask, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASK_RECIPES = ("wide", "narrow", "thin", "medium", "thick")
ARCHITECTURES = ("regular", "dilated", "fourier")


# ------------------------------------------------------------------------------------------------------- what all use


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


def _require_name(what: str, name: str, known: tuple[str, ...]) -> None:
    _require(name in known, f"unknown {what} {name!r}; {suggest(name, known)}")


@contextmanager
def _figure(width: int, height: int) -> Iterator[Figure]:
    """A figure of this size in pixels, in the project's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style()):
        yield Figure(figsize=(width / 100, height / 100), dpi=100)


def _axes(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Axes at a place given in pixels from the figure's upper left corner."""
    across, down = figure.get_size_inches() * figure.dpi
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _pixels(figure: Figure) -> np.ndarray:
    """The drawn figure, (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _show(axes: Axes, image: np.ndarray, title: str, **options: Any) -> Any:
    """A square picture in its axes, pixel (0, 0) in the upper left corner; ticks in pixels."""
    shown = axes.imshow(image, **options)
    size = len(image)
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2)
    if "extent" not in options:
        ticks = [-0.5, size / 2 - 0.5, size - 0.5]
        axes.set_xticks(ticks, ["0", size // 2, f"{size} px"])
        axes.set_yticks(ticks, ["0", size // 2, size])
    return shown


def _scale(figure: Figure, shown: Any, left: int, top: int, height: int) -> None:
    """The scale of a map's colours, right of it."""
    bar = figure.colorbar(shown, cax=_axes(figure, left, top, 9, height))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
    bar.ax.minorticks_off()


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the hole tinted and a black and white line around it, which shows in grey print too."""
    thick = np.ones((1 + 2 * (len(mask) // 200 + 1),) * 2, np.uint8)
    hole = mask.astype(np.uint8)
    outlined = overlay_mask(image, mask)
    outlined[mask & (cv2.erode(hole, thick) == 0)] = 0
    outlined[~mask & (cv2.dilate(hole, thick) > 0)] = 255
    return outlined


@lru_cache(maxsize=8)
def load_picture(picture: str, size: int) -> np.ndarray:
    """A square picture to explore, (size, size, 3) uint8.

    Args:
        picture: one of :data:`~lama_minimal.scenes.SCENE_CLASSES`, drawn from seed 0, or a picture file.
        size: side, pixels.

    Raises:
        UserError: neither.
    """
    if picture in SCENE_CLASSES:
        image = draw_scene(0, size, picture, perspective=0).image
    elif Path(picture).is_file():
        image = centre_square(read_image(picture)[0], size)
    else:
        raise UserError(f"no picture {picture!r}: give a file or a scene; {suggest(picture, SCENE_CLASSES)}")
    image.flags.writeable = False  # it is cached
    return image


# -------------------------------------------------------------------------------------------------------------- masks


@dataclass(frozen=True)
class MaskState:
    """A mask to look at."""

    recipe: str = "thick"
    """One of :data:`MASK_RECIPES`."""
    size: int = 256
    """Side of the picture, 32 to 512 pixels."""
    seed: int = 0
    """Of the mask, at least 0."""
    picture: str = "windows"
    """As in :func:`load_picture`."""

    def __post_init__(self) -> None:
        _require_name("mask recipe", self.recipe, MASK_RECIPES)
        _require(32 <= self.size <= 512, f"size is {self.size}: give 32 to 512 pixels")
        _require(self.seed >= 0, f"seed is {self.seed}: give 0 or more")

    def mask(self) -> np.ndarray:
        """The mask, (size, size) bool, True = hole."""
        recipe = recipe_for(self.recipe, self.size)
        return draw_mask(recipe, (self.size, self.size), np.random.default_rng(self.seed))


@cache
def _population(recipe: str, size: int, count: int = 40) -> np.ndarray:
    """Area in percent and width in pixels of the masks of the first seeds, (count, 2)."""
    masks = [MaskState(recipe, size, seed).mask() for seed in range(count)]
    return np.array([(100 * mask_area(mask), mask_width(mask)) for mask in masks])


def describe_masks(state: MaskState) -> str:
    """What the rendering of this state shows, in one sentence."""
    mask = state.mask()
    return (
        f"Mask {state.seed} of the recipe {state.recipe}, {state.size} × {state.size} pixels: "
        f"{mask_area(mask):.1%} of the picture is missing, and a missing pixel is {mask_width(mask):.1f} pixels "
        "from the closest known one on average."
    )


def render_masks(state: MaskState) -> np.ndarray:
    """Draw the hole in a picture, each missing pixel's distance to a known one, and area against width.

    Returns:
        (H, W, 3) uint8.
    """
    mask = state.mask()
    area, width = mask_area(mask), mask_width(mask)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    with _figure(980, 350) as figure:
        picture = _outlined(load_picture(state.picture, state.size), mask)
        _show(_axes(figure, 40, 40, 265, 265), picture, f"missing: {area:.1%} of the picture")
        middle = _axes(figure, 350, 40, 265, 265)
        map_title = f"distance to known, px: mean {width:.1f}"
        shown = _show(middle, np.ma.masked_where(~mask, distance), map_title, cmap="viridis", vmin=0)
        middle.set_facecolor("#eeeeee")
        _scale(figure, shown, 622, 40, 265)
        _draw_populations(_axes(figure, 715, 40, 250, 255), state, (100 * area, width))
        return _pixels(figure)


def _draw_populations(axes: Axes, state: MaskState, here: tuple[float, float]) -> None:
    """Masks of this recipe as dots, every recipe's mean as a mark of its own, this mask as a ring."""
    axes.scatter(*_population(state.recipe, state.size).T, s=10, color="#bbbbbb", label=f"40 masks, {state.recipe}")
    for recipe, mark in zip(MASK_RECIPES, "^vXsD", strict=True):
        mean = _population(recipe, state.size).mean(axis=0)
        colour = PALETTE["blue" if recipe == state.recipe else "black"]
        axes.plot(*mean, mark, color=colour, markersize=6, label=f"mean, {recipe}")
    axes.plot(
        *here, "o", markersize=11, fillstyle="none", markeredgewidth=2, color=PALETTE["vermilion"], label="this mask"
    )
    axes.set(xlim=(0, 100), ylim=(0, max(0.35 * state.size, 1.1 * here[1])))
    axes.set(xlabel="area, % of the picture", ylabel="width, px", title="area and width")
    axes.legend(loc="upper right", fontsize=8, handletextpad=0.2, labelspacing=0.3)
    axes.grid(True)


def explore_masks(state: MaskState | None = None) -> Any:
    """Masks by recipe, size and seed; area and width live."""
    state = state or MaskState()
    w = _widgets()
    return _explorer(
        state,
        render_masks,
        describe_masks,
        recipe=w.Dropdown(options=MASK_RECIPES, value=state.recipe),
        size=w.SelectionSlider(options=_with([64, 128, 256, 512], state.size), value=state.size),
        seed=w.IntSlider(state.seed, 0, max(99, state.seed)),
    )


# ---------------------------------------------------------------------------------------------------- receptive field


@dataclass(frozen=True)
class FieldState:
    """A receptive field to look at."""

    architecture: str = "regular"
    """One of :data:`ARCHITECTURES`; not used with a model."""
    blocks: int = 3
    """Blocks of the trunk that are passed, 0 to 9 (of a model, as many as it has)."""
    decoder: bool = False
    """Whether the decoder is passed as well."""
    size: int = 192
    """Side of the picture, 80 to 256 pixels, a multiple of 16."""
    row: int = 50
    """Place of the output pixel, percent of the picture's height."""
    column: int = 50
    """Place of the output pixel, percent of the picture's width."""
    hole: int = 0
    """Side of a square hole around the pixel, 0 to 200 pixels; what is in it has no influence."""
    model: str | None = None
    """A trained generator, as in :func:`~lama_minimal.checkpoint.load_generator`; None = a small one, untrained."""
    picture: str = "windows"
    """As in :func:`load_picture`."""

    def __post_init__(self) -> None:
        _require_name("architecture", self.architecture, ARCHITECTURES)
        most = 9 if self.model is None else 99
        _require(0 <= self.blocks <= most, f"blocks is {self.blocks}: give 0 to {most}")
        _require(80 <= self.size <= 256 and self.size % 16 == 0, f"size is {self.size}: give 80, 96, … or 256 pixels")
        for name, value in (("row", self.row), ("column", self.column)):
            _require(0 <= value <= 100, f"{name} is {value}: give 0 to 100 percent")
        _require(0 <= self.hole <= 200, f"hole is {self.hole}: give 0 to 200 pixels")


@dataclass(frozen=True)
class MeasuredField:
    """The receptive field of an output pixel."""

    effective: torch.Tensor
    """(S, S), sum 1; 0 in the hole."""
    centre: tuple[int, int]
    """The output pixel's place in the picture, (row, column)."""
    hole: np.ndarray
    """(S, S) bool."""
    known: float
    """Share of what the pixel reacts to that lies outside of the hole, 0 to 1."""
    theory: Window
    radius: tuple[float, float]
    """Radii that hold 50% and 90% of the effective field, pixels."""


@lru_cache(maxsize=16)
def _generator(architecture: str, blocks: int, model: str | None) -> Generator:
    """A trained generator, or an untrained one whose BatchNorm has seen noise."""
    if model is not None:
        return load_generator(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if architecture == "fourier":
            generator: Generator = FourierGenerator(width=16, blocks=blocks)
        else:
            generator = ResidualGenerator(width=16, blocks=blocks, dilations=DILATIONS[architecture])
        calibrate(generator, torch.randn(2, 4, 128, 128))
    return generator.eval()


@lru_cache(maxsize=64)
def measure_field(state: FieldState) -> MeasuredField:
    """Measure the field of this state on two noisy copies of the picture, with random probes.

    Raises:
        UserError: a model that is not there, or has another number of blocks.
    """
    generator = _generator(state.architecture, state.blocks, state.model)
    depth = len(generator.trunk)
    _require(state.blocks <= depth, f"blocks is {state.blocks}: this model has {depth}")
    _require(state.blocks == depth or not state.decoder, f"the decoder follows the last block: set blocks to {depth}")
    network = UpTo(generator, f"decoder {len(generator.decoder)}" if state.decoder else f"block {state.blocks}")
    jump = 1 if state.decoder else 2 ** (len(generator.decoder) - 1)
    last = state.size // jump - 1
    row, column = (min(last, round(percent / 100 * state.size / jump)) for percent in (state.row, state.column))
    centre = (row * jump, column * jump)

    away = [np.abs(np.arange(state.size) - at) for at in centre]
    hole = np.maximum.outer(*away) < state.hole / 2
    mask = torch.from_numpy(hole).float()[None, None].expand(2, -1, -1, -1)
    image = torch.tensor(load_picture(state.picture, state.size)).permute(2, 0, 1) / 255
    noise = torch.randn(2, *image.shape, generator=torch.Generator().manual_seed(0))
    reaction = effective_field(network, generator_input((image + 0.2 * noise).clamp(0, 1), mask), (row, column))
    field = reaction * torch.from_numpy(~hole)
    _require(field.sum() > 0, f"nothing outside of a hole of {state.hole} pixels has any influence: make it smaller")
    radius = tuple(radius_holding(field, centre, share) for share in (0.5, 0.9))
    known = (field.sum() / reaction.sum()).item()
    return MeasuredField(field / field.sum(), centre, hole, known, seen(network, (row, column)), radius)


def describe_field(state: FieldState) -> str:
    """What the rendering of this state shows, in one sentence."""
    found = measure_field(state)
    convolution = state.architecture.replace("fourier", "Fourier")
    network = f"the model {state.model}" if state.model else f"an untrained {convolution} generator"
    where = "the decoder" if state.decoder else f"{state.blocks} block{'s' * (state.blocks != 1)}"
    side = found.theory.rows.size
    square = "the whole picture" if math.isinf(side) else f"a square of {side:.0f} pixels"
    hole = (
        f"; {found.known:.1%} of what it reacts to lies outside of its hole of {state.hole} pixels"
        if state.hole
        else ""
    )
    return (
        f"After {where} of {network}, one output pixel may depend on {square}; half of what it depends on in effect "
        f"lies within {found.radius[0]:.0f} pixels, 90% within {found.radius[1]:.0f}{hole}."
    )


def render_field(state: FieldState) -> np.ndarray:
    """Draw the effective field in the picture, on a logarithmic scale, and its energy by distance.

    Returns:
        (H, W, 3) uint8.
    """
    found, size = measure_field(state), state.size
    picture = load_picture(state.picture, size)
    energy = found.effective.numpy()
    with np.errstate(divide="ignore"):
        decades = np.log10(energy / energy.max())
    weight = np.clip(1 + decades / 4, 0, 1)[..., None]  # four decades below the peak the picture is black
    black = (picture * weight).astype(np.uint8)
    with _figure(980, 370) as figure:
        left = _axes(figure, 40, 40, 265, 265)
        _show(left, overlay_mask(black, found.hole) if state.hole else black, "what the pixel + depends on")
        for radius, line in zip(found.radius, ("-", "--"), strict=True):
            _circle(left, found.centre, radius, line)
        middle = _axes(figure, 350, 40, 265, 265)
        shown = _show(middle, decades, "influence, log₁₀ of the peak's", cmap="magma", vmin=-8, vmax=0)
        middle.set_facecolor("black")
        _scale(figure, shown, 622, 40, 265)
        for axes in (left, middle):
            axes.plot(*found.centre[::-1], "+", color="white", markersize=9, markeredgewidth=2)
            _square(axes, found.theory)
            axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        handles = [_line("-"), _line("--"), _line(":")]
        names = ["circle: holds 50%", "circle: holds 90%", _theory_name(found.theory)]
        figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.03, 0.0), ncols=3, handlelength=2.5)
        _draw_energy_by_distance(_axes(figure, 715, 40, 250, 265), found)
        return _pixels(figure)


def _line(style_of_line: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=PALETTE["black"], linestyle=style_of_line, linewidth=1.6)


def _circle(axes: Axes, centre: tuple[int, int], radius: float, line: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(centre[::-1], radius, fill=False, edgecolor="white", linestyle=line, linewidth=1.6))


def _square(axes: Axes, window: Window) -> None:
    """The theoretical square, where it has a border."""
    from matplotlib.patches import Rectangle

    if math.isfinite(window.rows.size):
        corner = (window.columns.first - 0.5, window.rows.first - 0.5)
        square = Rectangle(corner, window.columns.size, window.rows.size, fill=False, edgecolor=PALETTE["sky"])
        square.set(linestyle=":", linewidth=2)
        axes.add_patch(square)


def _theory_name(window: Window) -> str:
    side = window.rows.size
    return "in theory: everything" if math.isinf(side) else f"in theory: {side:.0f} px square"


def _draw_energy_by_distance(axes: Axes, found: MeasuredField) -> None:
    distance, held = energy_by_distance(found.effective, found.centre)
    most = distance[-1].item()
    axes.plot(distance, 100 * held, color=PALETTE["blue"], linewidth=2)
    for radius, share, line in zip(found.radius, (50, 90), ("-", "--"), strict=True):
        axes.plot([0, radius, radius], [share, share, 0], line, color=PALETTE["black"], linewidth=1)
        words = f"{share}%: {radius:.0f} px"
        beside = 0 if radius > most / 2 else radius  # clear of the curve
        behind = dict(facecolor="white", edgecolor="none", pad=0.5)
        axes.annotate(words, (beside, share), (5, -11), textcoords="offset points", bbox=behind)
    half = found.theory.rows.size / 2
    if half <= most:
        axes.axvline(half, color=PALETTE["sky"], linestyle=":", linewidth=2)
    axes.set(xlim=(0, most), ylim=(0, 102), xlabel="distance from the pixel, px", ylabel="influence within, %")
    axes.set_title("how far the influence reaches")
    axes.grid(True)


def explore_field(state: FieldState | None = None) -> Any:
    """Receptive fields by architecture, depth, size of the picture and place."""
    state = state or FieldState()
    w = _widgets()
    architecture = {} if state.model else dict(architecture=w.Dropdown(options=ARCHITECTURES, value=state.architecture))
    return _explorer(
        state,
        render_field,
        describe_field,
        **architecture,
        blocks=w.IntSlider(state.blocks, 0, max(9, state.blocks)),
        decoder=w.Checkbox(state.decoder),
        size=w.SelectionSlider(options=_with([96, 128, 192, 256], state.size), value=state.size),
        row=w.IntSlider(state.row, 0, 100),
        column=w.IntSlider(state.column, 0, 100),
        hole=w.IntSlider(state.hole, 0, 200),
    )


# ----------------------------------------------------------------------------------------------------------- spectrum


@dataclass(frozen=True)
class SpectrumState:
    """A picture, and which of its frequencies are kept.

    A frequency of ``r`` is a wave of ``r`` periods per picture in its direction, the mean is frequency 0. The band
    ``inner`` to ``outer`` is chosen, or of its frequencies the ``peaks`` strongest ones, each with the one of the
    opposite sign; it is kept and the rest removed, or the reverse.
    """

    picture: str = "fence"
    """As in :func:`load_picture`."""
    inner: int = 0
    """Least frequency of the band, periods per picture."""
    outer: int = 12
    """Greatest frequency of the band, periods per picture."""
    peaks: int = 0
    """How many of the band's strongest frequencies; 0 = all."""
    remove: bool = False
    """Remove what is chosen instead of keeping it."""
    size: int = 128
    """Side of the picture, 16 to 256 pixels."""

    def __post_init__(self) -> None:
        _require(16 <= self.size <= 256, f"size is {self.size}: give 16 to 256 pixels")
        _require(
            0 <= self.inner <= self.outer, f"the band {self.inner} to {self.outer} is empty: give 0 ≤ inner ≤ outer"
        )
        _require(self.peaks >= 0, f"peaks is {self.peaks}: give 0 or more")


@dataclass(frozen=True)
class Wave:
    """One frequency of a picture, with the one of the opposite sign."""

    down: int
    """Periods per picture from top to bottom."""
    across: int
    """Periods per picture from left to right."""
    energy: float
    """Share of the picture's variance, 0 to 1; of the mean (down = across = 0), its square over the variance."""


def frequencies(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed periods per picture (down, across) of each entry of an S × S spectrum, two (S, S) arrays."""
    one = np.rint(np.fft.fftfreq(size) * size).astype(int)
    return np.broadcast_arrays(one[:, None], one[None])


def choose_frequencies(image: np.ndarray, state: SpectrumState) -> tuple[np.ndarray, list[Wave]]:
    """Which frequencies of ``image``, (S, S, C), are kept: (S, S) bool, and the chosen ones, strongest first.

    Mirrored frequencies are kept or removed together, since otherwise the picture would no longer be real.
    """
    size = len(image)
    down, across = frequencies(size)
    spectrum = np.fft.fft2(image, axes=(0, 1), norm="ortho")
    energy = np.square(np.abs(spectrum)).sum(axis=2)
    index = np.arange(size * size).reshape(size, size)
    pair = np.minimum(index, index[-np.arange(size)][:, -np.arange(size)])  # one number for a frequency and its mirror
    chosen = (np.hypot(down, across) >= state.inner) & (np.hypot(down, across) <= state.outer)
    strongest = np.flatnonzero(chosen & (pair == index))
    strongest = strongest[np.argsort(-energy.flat[strongest], kind="stable")]
    if state.peaks:
        chosen = np.isin(pair, strongest[: state.peaks])
    variance = max(energy.sum() - energy[0, 0], 1e-12)
    waves = [
        Wave(int(down.flat[at]), int(across.flat[at]), float(energy[pair == at].sum() / variance))
        for at in strongest[: state.peaks or 5]
    ]
    return chosen != state.remove, waves


def filter_picture(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """What is left of ``image``, (S, S, C), when only the frequencies ``kept``, (S, S) bool, stay: (S, S, C) float."""
    return np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * kept[..., None], axes=(0, 1)).real


def _wave_text(wave: Wave, size: int) -> str:
    """A wave in words."""
    frequency = math.hypot(wave.down, wave.across)
    if not frequency:
        return "mean colour"
    slope = math.degrees(math.atan2(abs(wave.down), abs(wave.across)))
    kind = "vertical" if slope < 10 else "horizontal" if slope > 80 else "diagonal"
    return f"{kind} stripes, {size / frequency:.3g} px apart ({wave.energy:.1%})"


def describe_spectrum(state: SpectrumState) -> str:
    """What the rendering of this state shows, in one sentence."""
    image = load_picture(state.picture, state.size) / 255
    kept, _ = choose_frequencies(image, state)
    left = filter_picture(image, kept)
    share = np.square(left - left.mean(axis=(0, 1))).sum() / max(
        np.square(image - image.mean(axis=(0, 1))).sum(), 1e-12
    )
    chosen = f"the {state.peaks} strongest frequencies" if state.peaks else "the frequencies"
    return (
        f"{state.picture}: {chosen} from {state.inner} to {state.outer} periods per picture "
        f"{'removed' if state.remove else 'kept'}; {kept.mean():.1%} of the spectrum's numbers remain, and with them "
        f"{share:.0%} of the picture's contrast (variance)."
    )


def render_spectrum(state: SpectrumState) -> np.ndarray:
    """Draw the picture, its logarithmic spectrum with what is removed tinted, and the picture that remains.

    Returns:
        (H, W, 3) uint8.
    """
    image, size = load_picture(state.picture, state.size), state.size
    kept, waves = choose_frequencies(image / 255, state)
    left = filter_picture(image / 255, kept)
    grey = 0 if kept[0, 0] else 0.5
    strength = np.log10(np.abs(np.fft.fft2(image.mean(axis=2) / 255)) + 1e-6)
    least, most = np.quantile(strength, (0.02, 0.999))
    strength = np.clip((strength - least) / max(most - least, 1e-9), 0, 1)
    tinted = overlay_mask(np.repeat((255 * strength).astype(np.uint8)[..., None], 3, axis=2), ~kept, 0.4)
    with _figure(980, 400) as figure:
        _show(_axes(figure, 40, 40, 265, 265), image, f"picture: {Path(state.picture).stem}")
        middle = _axes(figure, 365, 40, 265, 265)
        edges = np.array([-size // 2 - 0.5, size - size // 2 - 0.5])
        centred = np.fft.fftshift(tinted, axes=(0, 1))
        _show(middle, centred, "its spectrum, log; tinted = removed", extent=(*edges, *edges[::-1]))
        middle.set(xlabel="periods across", ylabel="periods down", xticks=(-size // 4, 0, size // 4))
        middle.set_yticks((-size // 4, 0, size // 4))
        title = "what remains" if kept[0, 0] else "what remains, around grey"
        remains = np.clip(255 * (left + grey), 0, 255).astype(np.uint8)
        _show(_axes(figure, 690, 40, 265, 265), remains, title)
        _mark_waves(middle, waves, size)
        words = [f"{n}  {_wave_text(wave, size)}" for n, wave in enumerate(waves[:3], start=1)]
        figure.text(40 / 980, 36 / 400, "Strongest of the chosen waves (share of the contrast):", fontsize=9)
        figure.text(40 / 980, 14 / 400, "      ".join(words), fontsize=9)
        return _pixels(figure)


def _mark_waves(axes: Axes, waves: list[Wave], size: int) -> None:
    """Rings around the strongest waves and their mirror images; a number where there is room for one."""
    across, down = np.array([(wave.across, wave.down) for wave in waves]).reshape(-1, 2).T
    axes.plot([*across, *-across], [*down, *-down], "o", markersize=5, fillstyle="none", color="white", mew=0.8)
    written: list[tuple[int, int]] = []
    for number, wave in enumerate(waves[:3], start=1):
        sign = -1 if wave.across < 0 else 1  # of the two, the right one
        place = (sign * wave.across, sign * wave.down)
        if all(math.dist(place, other) > size / 12 for other in written):
            axes.annotate(str(number), place, (5, 4), textcoords="offset points", color="white", fontweight="bold")
            written.append(place)


def explore_spectrum(state: SpectrumState | None = None) -> Any:
    """Spectra: keep or remove a band of frequencies, or single peaks."""
    state = state or SpectrumState()
    w = _widgets()
    most = math.ceil(state.size / math.sqrt(2))
    return _explorer(
        state,
        render_spectrum,
        describe_spectrum,
        picture=w.Dropdown(options=_with(SCENE_CLASSES, state.picture), value=state.picture),
        inner=w.IntSlider(state.inner, 0, max(most, state.inner)),
        outer=w.IntSlider(state.outer, 0, max(most, state.outer)),
        peaks=w.IntSlider(state.peaks, 0, max(40, state.peaks)),
        remove=w.Checkbox(state.remove),
    )


# ------------------------------------------------------------------------------------------------ FFC impulse response


@dataclass(frozen=True)
class ImpulseState:
    """One bright pixel, sent through a Fourier unit with random weights."""

    relu: bool = True
    """Whether the spectrum passes a ReLU."""
    size: int = 32
    """Side of the feature map, 8 to 128."""
    row: int = 5
    """Of the impulse."""
    column: int = 9
    """Of the impulse."""
    seed: int = 0
    """Of the weights."""

    def __post_init__(self) -> None:
        _require(8 <= self.size <= 128, f"size is {self.size}: give 8 to 128")
        _require(self.seed >= 0, f"seed is {self.seed}: give 0 or more")
        for name, value in (("row", self.row), ("column", self.column)):
            _require(0 <= value < self.size, f"{name} is {value}: give 0 to {self.size - 1}")


CHANNELS = 8
"""Feature maps of the Fourier unit that is explored."""


@torch.no_grad()
def impulse_response(state: ImpulseState) -> np.ndarray:
    """Energy of a Fourier unit's answer to an impulse in all its channels, summed over channels: (S, S), sum 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state.seed)
        unit = FourierUnit(CHANNELS, CHANNELS).double().eval()
    impulse = torch.zeros(1, CHANNELS, state.size, state.size, dtype=torch.float64)
    impulse[:, :, state.row, state.column] = 1
    if state.relu:
        answer = unit(impulse)
    else:  # the unit's steps without the last: transform, mix, transform back
        spectrum = torch.view_as_real(torch.fft.rfft2(impulse, norm="ortho"))
        mixed = unit.norm(unit.conv(rearrange(spectrum, "b c h k part -> b (c part) h k")))
        mixed = torch.view_as_complex(rearrange(mixed, "b (c part) h k -> b c h k part", part=2).contiguous())
        answer = torch.fft.irfft2(project_hermitian(mixed, state.size), s=impulse.shape[-2:], norm="ortho")
    energy = answer.square().sum(dim=(0, 1)).numpy()
    return energy / energy.sum()


def energy_shares(energy: np.ndarray, row: int, column: int) -> dict[str, float]:
    """Where the energy of :func:`impulse_response`, (S, S), lies: four shares that add up to 1."""
    rows, mirrored = energy.sum(axis=1), -row % len(energy)
    own, mirror = rows[row], rows[mirrored] if mirrored != row else 0.0
    pixel = energy[row, column]
    shares = {"the pixel": pixel, "rest of its row": own - pixel, "mirrored row": mirror, "elsewhere": 1 - own - mirror}
    return {name: float(max(0.0, share)) for name, share in shares.items()}


def describe_impulse(state: ImpulseState) -> str:
    """What the rendering of this state shows, in one sentence."""
    shares = energy_shares(impulse_response(state), state.row, state.column)
    lines = 1 - shares["elsewhere"]
    return (
        f"{'With' if state.relu else 'Without'} a ReLU in the spectrum, {lines:.1%} of an impulse's energy stays in "
        f"its row and the mirrored row, and {shares['elsewhere']:.1%} reaches the rest of the picture."
    )


def render_impulse(state: ImpulseState) -> np.ndarray:
    """Draw the impulse, the unit's answer on a logarithmic scale, and the shares of its energy.

    Returns:
        (H, W, 3) uint8.
    """
    size = state.size
    energy = impulse_response(state)
    impulse = np.zeros((size, size))
    impulse[state.row, state.column] = 1
    with _figure(980, 370) as figure:
        _show(_axes(figure, 40, 40, 265, 265), impulse, "in: one bright pixel", cmap="gray")
        middle = _axes(figure, 400, 40, 265, 265)
        name = "out, with ReLU" if state.relu else "out, without ReLU"
        with np.errstate(divide="ignore"):
            shown = _show(middle, np.log10(energy), f"{name}: log₁₀ of energy", cmap="magma", vmin=-8, vmax=0)
        middle.set_facecolor("black")
        names = {-state.row % size: f"mirrored {-state.row % size}", state.row: f"its row {state.row}"}
        middle.set_yticks(list(names), list(names.values()))
        _scale(figure, shown, 672, 40, 265)
        _draw_shares(_axes(figure, 800, 40, 165, 250), state)
        figure.legend(loc="lower right", bbox_to_anchor=(1.0, 0.0), ncols=2, fontsize=8)
        return _pixels(figure)


def _draw_shares(axes: Axes, state: ImpulseState) -> None:
    """Shares of the energy with and without ReLU; the state's own are filled, the other ones outlined."""
    for offset, relu in ((-0.2, False), (0.2, True)):
        shares = energy_shares(impulse_response(replace(state, relu=relu)), state.row, state.column)
        colour = PALETTE["blue"] if relu else PALETTE["orange"]
        name = "with ReLU" if relu else "without ReLU"
        places, values = np.arange(len(shares)) + offset, 100 * np.array([*shares.values()])
        fill = colour if relu == state.relu else "white"
        axes.barh(places, values, 0.36, color=fill, edgecolor=colour, linewidth=1.2, label=name)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.0f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(xlim=(0, 118), xticks=(0, 50, 100), ylim=(len(shares) - 0.5, -0.5), xlabel="share of the energy, %")
    axes.set_title("where the energy goes")
    axes.grid(True, axis="x")


def explore_impulse(state: ImpulseState | None = None) -> Any:
    """An impulse through a Fourier unit, with and without the ReLU in its spectrum."""
    state = state or ImpulseState()
    w = _widgets()
    return _explorer(
        state,
        render_impulse,
        describe_impulse,
        relu=w.Checkbox(state.relu),
        size=w.SelectionSlider(options=_with([16, 32, 33, 64], state.size), value=state.size),
        row=w.IntSlider(state.row, 0, state.size - 1),
        column=w.IntSlider(state.column, 0, state.size - 1),
        seed=w.IntSlider(state.seed, 0, max(20, state.seed)),
    )


# ------------------------------------------------------------------------------------------------------------ playback


@dataclass(frozen=True)
class PlaybackState:
    """A moment of a recorded training run."""

    folder: str
    """A run's folder, with its ``log.csv`` and ``samples/``."""
    frame: int = -1
    """Which of the sheets of samples, from 0; negative ones count from the end."""

    def __post_init__(self) -> None:
        count = len(read_run(self.folder).samples)
        _require(-count <= self.frame < count, f"frame is {self.frame}: this run has {count}, give 0 to {count - 1}")


@dataclass(frozen=True)
class Run:
    """What a run wrote down."""

    log: Mapping[str, np.ndarray]
    """Column of ``log.csv`` → its numbers, NaN where nothing was measured."""
    samples: tuple[tuple[int, Path], ...]
    """Steps at which a sheet of samples was drawn, and the sheets."""

    def at(self, step: int, column: str) -> float:
        """The last value of a column up to a step; NaN if there is none."""
        values = self.log.get(column, np.array([]))[: np.searchsorted(self.log["step"], step, side="right")]
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else math.nan


def read_run(folder: str | Path) -> Run:
    """Read the log and find the sheets of a run.

    Raises:
        UserError: no run, or one that has not drawn samples yet.
    """
    log, sheets = Path(folder) / "log.csv", sorted((Path(folder) / "samples").glob("[0-9]*.jpg"))
    _require(log.is_file(), f"{folder} is no run: there is no log.csv in it")
    _require(bool(sheets), f"{folder} has no samples yet: let it train on, or set run.sample_every lower")
    return _read_run(log, log.stat().st_mtime_ns, tuple(sheets))


@lru_cache(maxsize=4)
def _read_run(log: Path, _changed: int, sheets: tuple[Path, ...]) -> Run:
    with log.open(newline="") as file:
        header, *rows = csv.reader(file)
    rows = [row for row in rows if len(row) == len(header)]  # the last one may be half written
    _require(bool(rows), f"{log} has no rows yet: let the run make a step")
    try:
        table = np.array([[float(value or "nan") for value in row] for row in rows]).reshape(len(rows), len(header))
    except ValueError as error:
        raise UserError(f"{log} is damaged ({error})") from error
    return Run(dict(zip(header, table.T, strict=True)), tuple((int(sheet.stem), sheet) for sheet in sheets))


TERMS = ("l1", "adversarial", "feature_matching", "perceptual")
"""Columns of a log that are weighted losses of the generator."""


def describe_playback(state: PlaybackState) -> str:
    """What the rendering of this state shows, in one sentence."""
    run = read_run(state.folder)
    step, _ = run.samples[state.frame]
    of = f"After {step} of {run.log['step'][-1]:.0f} steps"
    error, sharpness = run.at(step, "hole_error"), run.at(step, "gradient_energy")
    if math.isnan(error):
        return f"{of} nothing has been measured yet."
    return (
        f"{of} the mean error in held-out holes is {error:.3f}, and their sharpness {sharpness:.2f} of the originals'."
    )


def render_playback(state: PlaybackState) -> np.ndarray:
    """Draw a sheet of samples, and below it the curves of the run with this moment marked.

    Returns:
        (H, W, 3) uint8.
    """
    run = read_run(state.folder)
    step, path = run.samples[state.frame]
    sheet = enlarge(read_image(path)[0], 796)
    below, width = len(sheet) + 30, max(sheet.shape[1], 796)
    with _figure(width, below + 240) as figure:
        figure.text(4 / width, 1 - 8 / (below + 240), f"step {step}", va="top", fontsize=13, fontweight="bold")
        axes = _axes(figure, 0, 30, sheet.shape[1], len(sheet))
        axes.imshow(sheet)
        axes.set_axis_off()
        charts = [_axes(figure, left, below + 35, 172, 150) for left in (45, 278, 511)]
        _draw_curve(charts[0], run, step, "hole_error", "error in held-out holes", ".3f")
        _draw_curve(charts[1], run, step, "gradient_energy", "sharpness (originals 1)", ".2f")
        charts[1].axhline(1, color=PALETTE["grey"], linewidth=1, linestyle=":")
        _draw_terms(charts[2], run)
        for chart in charts:
            chart.axvline(step, color=PALETTE["vermilion"], linewidth=1.5)
            chart.set(xlim=(0, run.log["step"][-1]), xlabel="step")
            chart.grid(True)
        return _pixels(figure)


def _draw_curve(axes: Axes, run: Run, step: int, column: str, title: str, form: str) -> None:
    """A measured column as a line, with its value at this step."""
    values = run.log.get(column, np.full(len(run.log["step"]), math.nan))
    found = np.isfinite(values)
    axes.plot(run.log["step"][found], values[found], "o-", markersize=3, color=PALETTE["blue"])
    now = run.at(step, column)
    axes.plot(step, now, "o", markersize=6, color=PALETTE["vermilion"])
    axes.set_title(title if math.isnan(now) else f"{title}: {now:{form}}")
    axes.set_ylim(bottom=0)


def _draw_terms(axes: Axes, run: Run) -> None:
    """The generator's losses, smoothed over 25 steps, on a logarithmic scale."""
    for name, line, colour in zip(TERMS, ("-", "--", "-.", ":"), ("blue", "orange", "green", "purple"), strict=True):
        values = run.log.get(name, np.zeros(1))
        if not (values > 0).any():  # this term was off
            continue
        window = min(25, len(values))
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        steps = run.log["step"][window - 1 :]
        axes.plot(steps, smooth, line, color=PALETTE[colour], linewidth=1.4, label=name.replace("_", "\n"))
    axes.set_yscale("log")
    axes.set_title("losses, weighted")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize=8, handlelength=1.8)


def explore_playback(folder: str | Path, frame: int = -1) -> Any:
    """A recorded run: scrub through its samples and curves."""
    state = PlaybackState(str(folder), frame)
    count = len(read_run(folder).samples)
    w = _widgets()
    return _explorer(state, render_playback, describe_playback, "jpeg", frame=w.IntSlider(frame % count, 0, count - 1))


# --------------------------------------------------------------------------------------------------------- the shell


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError as error:
        raise UserError("explorers need ipywidgets: pip install 'lama-minimal[course]'") from error
    return ipywidgets


def _with(options: Any, value: Any) -> list[Any]:
    """The options of a control, with ``value`` among them."""
    return [*options] if value in options else [*options, value]


def _encoded(image: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    options = dict(compress_level=3) if form == "png" else dict(quality=90, subsampling=0)
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def _explorer(
    state: Any,
    render: Callable[[Any], np.ndarray],
    describe: Callable[[Any], str],
    form: str = "png",
    **controls: Any,
) -> Any:
    """The shell around a rendering: a picture (png or jpeg), a sentence, and controls named like the state's fields."""
    return _explorer_class()(state, render, describe, form, controls)


class _Shell:
    """A picture with controls, to be mixed into a box; where no live page shows it, it is still a picture."""

    _ipython_display_ = None  # ipywidgets 7 would publish the widget alone

    def __init__(
        self,
        state: Any,
        render: Callable[[Any], np.ndarray],
        describe: Callable[[Any], str],
        form: str,
        controls: Mapping[str, Any],
    ) -> None:
        widgets = _widgets()
        self.current, self.controls = state, dict(controls)
        self._render, self._describe = render, describe
        # Never so small that its words cannot be read: on a phone it scrolls sideways.
        size = widgets.Layout(max_width="100%", min_width="680px", object_fit="contain")
        self.image = widgets.Image(format=form, layout=size)
        window = widgets.Box([self.image], layout=widgets.Layout(overflow="auto"))
        self.sentence = widgets.HTML()
        for name, control in self.controls.items():
            control.description = name.replace("_", " ")
            control.observe(self._update, names="value")
        row = widgets.HBox([*self.controls.values()], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([window, self.sentence, row])
        self._draw(state)

    def _draw(self, state: Any) -> None:
        self.image.value = _encoded(self._render(state), self.image.format)
        self.sentence.value = f'<p role="status">{html.escape(self._describe(state))}</p>'
        self.current = state

    def _update(self, _change: Any) -> None:
        """Draw what the controls say; what they cannot say together is told, and the picture stays."""
        values = {name: control.value for name, control in self.controls.items()}
        try:
            self._draw(replace(self.current, **values))
        except UserError as error:
            self.sentence.value = f'<p role="alert"><b>{html.escape(str(error))}</b></p>'

    def close(self) -> None:
        """Let go of the controls and of everything inside."""
        for control in self.controls.values():
            control.unobserve_all()
        for box in self.children:
            for widget in (*getattr(box, "children", ()), box):
                widget.close()
        super().close()

    def _repr_mimebundle_(self, **_options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget, and the picture as it is now for pages that show saved notebooks."""
        sentence, mime = self._describe(self.current), f"image/{self.image.format}"
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        data = {
            "application/vnd.jupyter.widget-view+json": view,
            mime: base64.b64encode(self.image.value).decode(),
            "text/plain": sentence,
        }
        return data, {mime: {"alt": sentence}}


@cache
def _explorer_class() -> type:
    """The widget's class, made when it is first needed, since ``ipywidgets`` may not be there."""
    return type("Explorer", (_Shell, _widgets().VBox), {})
