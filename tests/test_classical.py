"""The classical methods: what is known stays, what is hidden stays hidden, and simple surfaces are continued."""

import numpy as np
import pytest

from lama_minimal.classical import BASELINES, MID_GREY, biharmonic, mean_colour, navier_stokes, telea
from lama_minimal.masks import draw_mask, recipe_for
from lama_minimal.scenes import draw_scene

METHODS = pytest.mark.parametrize("method", BASELINES.values(), ids=BASELINES)


def hole(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A thick mask."""
    return draw_mask(recipe_for("thick", min(size)), size, np.random.default_rng(seed))


def test_baselines_are_the_four_of_the_report() -> None:
    assert list(BASELINES.values()) == [telea, navier_stokes, biharmonic, mean_colour]


@METHODS
@pytest.mark.parametrize("size", [(48, 48), (33, 61)])
def test_known_pixels_are_exact_and_inputs_untouched(method, size) -> None:
    image = np.ascontiguousarray(draw_scene(1, 61).image[: size[0], : size[1]])
    mask = hole(size)
    before = image.copy(), mask.copy()
    filled = method(image, mask)
    assert filled.shape == image.shape and filled.dtype == np.uint8
    assert np.array_equal(filled[~mask], image[~mask])
    assert (filled[mask] != image[mask]).any()
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])


@METHODS
def test_what_is_under_the_hole_does_not_matter(method) -> None:
    image, mask = draw_scene(3, 64).image, hole((64, 64), 3)
    other = image.copy()
    other[mask] = np.random.default_rng(0).integers(0, 256, (mask.sum(), 3))
    assert np.array_equal(method(image, mask), method(other, mask))


@METHODS
def test_empty_and_full_masks(method) -> None:
    image = draw_scene(2, 32).image
    unchanged = method(image, np.zeros((32, 32), bool))
    assert np.array_equal(unchanged, image) and unchanged is not image
    assert (method(image, np.ones((32, 32), bool)) == MID_GREY).all()


@METHODS
def test_flat_picture_is_restored(method) -> None:
    image = np.full((40, 40, 3), (30, 120, 210), np.uint8)
    filled = method(image, hole((40, 40), 1)).astype(int)
    assert np.abs(filled - image).max() <= 3  # Telea's roundings add up from the border inwards


@METHODS
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tiny_pictures(method, size) -> None:
    image = np.full((size, size + 1, 3), 77, np.uint8)
    mask = np.zeros((size, size + 1), bool)
    mask[0, 0] = True
    assert np.abs(method(image, mask).astype(int) - 77).max() <= 1


def test_mean_colour_is_the_mean_of_known_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = (10, 20, 30)
    image[2] = (40, 80, 120)
    image[3] = 255
    mask = np.zeros((4, 4), bool)
    mask[3] = True
    assert mean_colour(image, mask)[3].tolist() == [[20, 40, 60]] * 4


def test_biharmonic_continues_a_slope_that_the_mean_cannot() -> None:
    ramp = np.broadcast_to((40 + 4 * np.arange(40, dtype=np.uint8))[None, :, None], (40, 40, 3)).copy()
    mask = np.zeros((40, 40), bool)
    mask[12:28, 10:30] = True
    assert np.abs(biharmonic(ramp, mask).astype(int) - ramp)[mask].max() <= 1
    assert np.abs(mean_colour(ramp, mask).astype(int) - ramp)[mask].max() > 20


@METHODS
def test_wrong_inputs_are_refused(method) -> None:
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    with pytest.raises(ValueError, match="image must be"):
        method(image / 255, mask)
    with pytest.raises(ValueError, match="image must be"):
        method(image[..., 0], mask)
    with pytest.raises(ValueError, match="mask must be"):
        method(image, mask.astype(np.uint8))
    with pytest.raises(ValueError, match="mask must be"):
        method(image, mask[:4])
