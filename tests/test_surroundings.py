"""Fillings fitted to their surroundings: what stands out is taken back, what belongs there stays."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from lama_minimal.classical import harmonic
from lama_minimal.surroundings import MARGIN, SEAM_REACH, fit, no_louder, without_seam

SIZE = 96, 128
ROWS, COLUMNS = np.indices(SIZE)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    return (ROWS >= top) & (ROWS < top + height) & (COLUMNS >= left) & (COLUMNS < left + width)


HOLE = box(20, 30, 50, 60)


def colours(*channels: np.ndarray | float) -> np.ndarray:
    return np.stack([channel + 0.0 * ROWS for channel in channels], axis=-1)


def grains(deviation: float, width: float, seed: int) -> np.ndarray:
    """Grey noise of one grain size, (H, W, 3)."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(SIZE), width)
    return np.repeat((noise / noise.std() * deviation)[..., None], 3, axis=-1)


SKY = colours(60 + 0.5 * ROWS, 90 + 0.3 * COLUMNS, 150 - 0.4 * ROWS)


# -------------------------------------------------------------------------------------------------------------- seams


@pytest.mark.parametrize("slope", [0, 20, 40])
def test_what_is_wrong_beside_the_hole_is_mended_in_it(slope):
    """A network that is wrong by a ramp: at the border right after it, deep inside as it was, and never worse."""
    truth = colours(100 + 40 * np.sin(ROWS / 3), 120 + 0.3 * COLUMNS, 90 + 0.2 * ROWS)
    wrong = colours(*3 * [slope * COLUMNS / 127 + slope / 4])
    hole = box(10, 10, 76, 90) | box(80, 100, 16, 28)  # inside, and at a corner
    depth = distance_transform_edt(hole)
    error = np.abs(without_seam(truth + wrong, truth, hole) - truth)
    assert (error <= wrong + 1)[hole].all()
    assert (error <= wrong / 3 + 2)[hole & (depth <= 2)].all()
    assert (np.abs(error - wrong) <= 0.05 * slope + 1)[depth > 4 * SEAM_REACH].all()


# ---------------------------------------------------------------------------------------------------------- loudness


@pytest.mark.parametrize(
    "blemish",
    [
        colours(25 * np.sin(COLUMNS), 25 * np.sin(COLUMNS), 25 * np.sin(COLUMNS)),
        colours(0, 0, 60 * np.exp(-((ROWS - 45) ** 2 + (COLUMNS - 60) ** 2) / 300)),
        grains(20, 0, 1),
        grains(20, 4, 2),
    ],
    ids=["stripes", "tint", "fine grain", "blotches"],
)
def test_a_smooth_sky_stays_smooth(blemish):
    before, after = np.abs(blemish)[HOLE], np.abs(no_louder(SKY + blemish, SKY, HOLE) - SKY)[HOLE]
    assert before.max() > 20
    assert after.max() < before.max() / 4
    assert after.mean() < before.mean() / 2


def test_grey_surroundings_make_grey_fillings():
    grey = 120 + grains(20, 1.5, 3)
    filled = no_louder(grey + colours(30 * np.sin(ROWS), 0, -30), grey, HOLE)
    assert np.ptp(filled[HOLE], axis=-1).max() < 1
    coloured = grey + colours(30 * np.sin(COLUMNS / 2), 0, -30 * np.sin(ROWS / 2))
    assert np.ptp(no_louder(coloured, coloured, HOLE)[HOLE], axis=-1).max() > 30  # where there is colour, it may be


@pytest.mark.parametrize("width", [0, 1, 2, 4])
def test_what_belongs_there_stays(width):
    """A texture, filled with itself: nearly as loud as before, and the same pattern."""
    truth = 120 + grains(20, width, 4)
    filled = no_louder(truth, truth, HOLE)
    assert 0.8 < filled[HOLE].std() / truth[HOLE].std() < 1.01
    assert np.corrcoef(filled[HOLE].ravel(), truth[HOLE].ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("fine", "coarse"), [(60, 10), (10, 60)])
def test_bands_are_compared_one_by_one(fine, coarse):
    """Two grain sizes, one of them six times too loud in the filling: afterwards neither is, and neither is lost."""
    around = 120 + grains(10, 0.5, 5) + grains(10, 4, 6)
    filling = 120 + grains(fine, 0.5, 7) + grains(coarse, 4, 8)
    inner = distance_transform_edt(HOLE) > 12

    def loudness(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
        low = gaussian_filter(picture[..., 0], 2)
        return np.array([(picture[..., 0] - low)[where].std(), low[where].std()])

    filled = np.where(HOLE[..., None], no_louder(filling, around, HOLE), around)
    before, after, wanted = loudness(filling, inner), loudness(filled, inner), loudness(around, ~HOLE)
    assert (before / wanted).max() > 2.5
    assert (after / wanted < 1.4).all()
    assert (after / wanted > 0.4).all()


def test_nothing_is_amplified():
    """In loud surroundings a flat filling stays flat; the harmonic surface is what it is."""
    around = (120 + grains(30, 1, 9)).clip(0, 255).astype(np.uint8)
    flat = harmonic(around, HOLE)
    assert np.abs(no_louder(flat, around, HOLE) - flat)[HOLE].max() < 3


def test_only_the_hole_of_the_filling_counts():
    around, filling = 120 + grains(20, 1, 10), 90 + grains(30, 2, 11)
    other = np.where(HOLE[..., None], filling, 0)
    assert np.allclose(no_louder(filling, around, HOLE)[HOLE], no_louder(other, around, HOLE)[HOLE], atol=1e-3)


@pytest.mark.parametrize("turn", [lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.swapaxes(0, 1)])
def test_no_direction_is_preferred(turn):
    """Sides of 96 and 128 pixels halve without a rest, so that pyramids of mirrored pictures are mirrored, nearly."""
    around, filling = 120 + grains(10, 2, 12), 120 + grains(40, 2, 13)
    here, there = no_louder(filling, around, HOLE), no_louder(*(turn(x) for x in (filling, around, HOLE)))
    assert np.abs(turn(here) - there)[turn(HOLE)].mean() < 2


# ----------------------------------------------------------------------------------------------------------- together


def test_bytes_come_back():
    rgb, prediction = SKY.round().astype(np.uint8), (SKY + 30).round().astype(np.uint8)
    filled = fit(prediction, rgb, HOLE)
    assert filled.dtype == np.uint8
    assert np.abs(filled.astype(int) - rgb)[HOLE].max() <= 3


def test_what_is_far_away_counts_for_nothing():
    """Nor is anything missed: loudness that grows with the distance gives what the whole picture gives."""
    rng = np.random.default_rng(15)
    hole = np.zeros((400, 500), bool)
    hole[140:180, 200:260] = True
    distance = distance_transform_edt(~hole)[..., None]
    noise, prediction = rng.integers(0, 256, (2, 400, 500, 3), dtype=np.uint8)
    rgb = (128 + (noise - 128.0) * np.minimum(1, distance / 60)).astype(np.uint8)
    other = np.where(distance > 2 * MARGIN, 255 - rgb // 2, rgb)
    assert np.array_equal(fit(prediction, rgb, hole)[hole], fit(prediction, other, hole)[hole])
    whole = no_louder(without_seam(prediction, rgb, hole), rgb, hole).clip(0, 255)
    assert np.abs(fit(prediction, rgb, hole) - whole)[hole].max() <= 2


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 40), (3, 5), (17, 33), (64, 65)])
@pytest.mark.parametrize("known", ["one pixel", "half", "all but one"])
def test_pictures_of_any_size_and_holes_of_any_size(shape, known):
    rng = np.random.default_rng(14)
    rgb, prediction = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    hole = {
        "one pixel": np.arange(np.prod(shape)).reshape(shape) > 0,
        "half": np.arange(np.prod(shape)).reshape(shape) % 2 > 0,
        "all but one": np.arange(np.prod(shape)).reshape(shape) < 1,
    }[known]
    filled = fit(prediction, rgb, hole)
    assert filled.shape == rgb.shape
    if known == "one pixel":  # nothing is known but a colour, so nothing may vary
        assert np.abs(filled.astype(int) - rgb[0, 0])[hole].max() <= 1
