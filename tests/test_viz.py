"""Sheets and figures: where pictures land, what the mask's colour does, and that nothing global is touched."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lama_minimal import viz


def plain(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> np.ndarray:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance, 0 to 1 (WCAG 2)."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_palette_colours_are_valid_and_distinct() -> None:
    colours = {matplotlib.colors.to_rgb(code) for code in viz.PALETTE.values()}
    assert len(colours) == len(viz.PALETTE) >= 8
    assert (np.array(viz.MASK_COLOUR) >= 0).all() and (np.array(viz.MASK_COLOUR) <= 255).all()
    # readable on black and white alike, which is where pictures end
    assert 0.15 < luminance(viz.MASK_COLOUR) < 0.45


def test_overlay_tints_the_hole_only() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    before = image.copy()
    half = viz.overlay_mask(image, mask, opacity=0.5)
    assert np.array_equal(half[~mask], image[~mask])
    expected = (image[mask].astype(float) + viz.MASK_COLOUR) / 2
    assert np.abs(half[mask] - expected).max() <= 0.5
    assert np.array_equal(viz.overlay_mask(image, mask, opacity=0), image)
    assert (viz.overlay_mask(image, mask, opacity=1)[mask] == viz.MASK_COLOUR).all()
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("shape", "expected"), [((8, 8), (32, 32)), ((8, 4), (32, 16)), ((5, 3), (32, 19))])
def test_enlarge_reaches_the_side_and_keeps_the_shape(shape, expected) -> None:
    assert viz.enlarge(plain((1, 2, 3), *shape), 32).shape[:2] == expected


def test_enlarge_by_a_whole_factor_keeps_every_pixel() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    large = viz.enlarge(image, 24)
    assert np.array_equal(large[1::3, 1::3], image) and np.array_equal(large[::3, 2::3], image)


def test_enlarge_shrinks_by_averaging() -> None:
    chequer = np.indices((64, 64)).sum(0) % 2 * 200
    image = np.repeat(chequer[..., None], 3, axis=2).astype(np.uint8)
    assert np.abs(viz.enlarge(image, 16).astype(int) - 100).max() <= 1


def test_grid_places_pictures_row_after_row() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = viz.grid([plain(colour) for colour in colours], columns=2, gap=4)
    assert sheet.shape == (4 + 2 * 12, 4 + 2 * 12, 3) and sheet.dtype == np.uint8
    assert (sheet[4:12, 4:12] == colours[0]).all()
    assert (sheet[4:12, 16:24] == colours[1]).all()
    assert (sheet[16:24, 4:12] == colours[2]).all()
    painted = np.zeros(sheet.shape[:2], bool)
    painted[4:12, 4:12] = painted[4:12, 16:24] = painted[16:24, 4:12] = True
    assert (sheet[~painted] == 255).all()


def test_grid_centres_smaller_pictures_or_brings_all_to_one_side() -> None:
    small, large = plain((10, 20, 30), 4, 4), plain((0, 0, 0), 8, 8)
    sheet = viz.grid([large, small], columns=2, gap=0)
    assert sheet.shape == (8, 16, 3)
    assert (sheet[2:6, 10:14] == (10, 20, 30)).all() and (sheet[:2, 8:] == 255).all()
    assert (viz.grid([large, small], columns=2, gap=0, side=16)[:, 16:] == (10, 20, 30)).all()


def test_titles_are_written_above_their_columns() -> None:
    images = [plain((90, 90, 90), 60, 60)] * 4
    sheet = viz.grid(images, 2, ["", "filled"])
    untitled = viz.grid(images, 2)
    head = len(sheet) - len(untitled)
    assert np.array_equal(sheet[head:], untitled)
    ink = (sheet[:head] < 128).any(axis=2)
    assert not ink[:, :64].any() and ink[:, 64:].sum() > 20


def test_grid_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="pictures"):
        viz.grid([], 2)
    with pytest.raises(ValueError, match="columns"):
        viz.grid([plain((0, 0, 0))], 0)
    with pytest.raises(ValueError, match="titles"):
        viz.grid([plain((0, 0, 0))], 1, ["a", "b"])


def test_sheet_is_written_as_it_is_drawn(tmp_path) -> None:
    images = [plain((200, 10, 10)), plain((10, 200, 10))]
    path = viz.save_sheet(tmp_path / "new" / "sheet.png", images, 2, ["a", "b"], side=32)
    assert np.array_equal(np.asarray(Image.open(path)), viz.grid(images, 2, ["a", "b"], 32))


def test_style_is_accepted_by_matplotlib() -> None:
    with matplotlib.rc_context(viz.style()):
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(viz.PALETTE.values())


def test_comparison_figure_shows_pictures_and_numbers() -> None:
    rows = [[plain((200, 0, 0)), plain((0, 0, 200))]] * 3
    charts = {"errors": {"all": {"a": (0.1, 0.05, 0.2), "b": (0.3, 0.3, 0.3)}, "few": {"a": (0.2, np.nan, np.nan)}}}
    settings = dict(matplotlib.rcParams)
    figure = viz.comparison_figure(
        rows, ["left", "right"], ["1", "2", "3"], charts, viz.method_colours(["a", "b"]), "t"
    )
    assert dict(matplotlib.rcParams) == settings
    *pictures, chart = figure.axes
    assert len(pictures) == 6
    texts = {text.get_text() for text in figure.texts}
    assert {"left", "right", "1", "2", "3", "t"} <= texts
    heights = {round(bar.get_height(), 6) for bar in chart.patches}
    assert heights == {0.1, 0.3, 0.2}
    whisker = chart.collections[0].get_segments()[0]  # of a's first bar
    assert whisker[:, 1].tolist() == pytest.approx([0.05, 0.2])


def test_pictures_land_in_the_figure_pixel_by_pixel(tmp_path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    figure = viz.comparison_figure([[image]], ["x"], ["y"], {}, {}, cell=64)
    figure.savefig(tmp_path / "figure.png")
    drawn = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB"))
    windows = np.lib.stride_tricks.sliding_window_view(drawn, (32, 32, 3))[:, :, 0]
    target = image[16:48, 16:48]
    best = min(np.abs(windows[y, :].astype(int) - target).mean(axis=(1, 2, 3)).min() for y in range(len(windows)))
    assert best < 1


def test_the_first_method_stands_out() -> None:
    colours = viz.method_colours([str(i) for i in range(8)])
    assert colours["0"] == viz.PALETTE["blue"] and len(set(colours.values())) == 8


def test_importing_viz_loads_neither_matplotlib_nor_torch() -> None:
    code = "import sys, lama_minimal.viz; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
