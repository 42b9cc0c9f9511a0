"""The measures against closed forms, scikit-image and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lama_minimal import metrics
from lama_minimal.masks import draw_mask, recipe_for
from lama_minimal.scenes import draw_scene


def scene(seed: int, size: int = 64) -> torch.Tensor:
    """A scene as (1, 3, S, S)."""
    return torch.from_numpy(draw_scene(seed, size).image.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def box(top: int, bottom: int, left: int, right: int, size: int = 32) -> torch.Tensor:
    """A rectangular hole, (1, 1, S, S)."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., top:bottom, left:right] = 1
    return mask


def test_hole_error_is_the_offset_inside_and_blind_outside() -> None:
    mask = torch.cat([box(4, 12, 4, 20), box(0, 2, 0, 2)])
    image = torch.full((2, 3, 32, 32), 0.4)
    composite = image + mask * torch.tensor([0.1, -0.25]).reshape(2, 1, 1, 1) + (1 - mask) * 0.3
    torch.testing.assert_close(metrics.hole_error(composite, image, mask), torch.tensor([0.1, 0.25]))


def test_hole_error_averages_over_channels_and_pixels() -> None:
    mask, image = box(0, 4, 0, 4), torch.zeros(1, 3, 32, 32)
    composite = image.clone()
    composite[0, 1, 0, 0] = 0.48  # one of 16 pixels, one of 3 channels
    torch.testing.assert_close(metrics.hole_error(composite, image, mask), torch.tensor([0.01]))


def test_without_a_hole_or_a_border_there_is_no_number() -> None:
    image, nothing = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    assert metrics.hole_error(image, image, nothing).isnan().all()
    assert metrics.border_error(image, image, nothing).isnan().all()
    assert metrics.border_error(image, image, 1 - nothing).isnan().all()
    assert metrics.hole_error(image, image, 1 - nothing).item() == 0
    assert metrics.gradient_energy(image, nothing).item() == 0


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_border_band_is_the_chessboard_distance(width, seed) -> None:
    mask = draw_mask(recipe_for("thick", 64), (64, 48), np.random.default_rng(seed))
    distance = distance_transform_cdt(mask, metric="chessboard")
    band = metrics.border_band(torch.from_numpy(mask[None, None].astype(np.float32)), width)
    assert np.array_equal(band[0, 0].numpy() > 0, mask & (distance <= width))


def test_border_error_sees_the_band_only() -> None:
    mask, image = box(8, 24, 8, 24), torch.zeros(1, 3, 32, 32)
    inner = box(10, 22, 10, 22)
    assert metrics.border_error(inner * 0.5, image, mask).item() == 0
    torch.testing.assert_close(metrics.border_error((mask - inner) * 0.5, image, mask), torch.tensor([0.5]))
    # at the picture's edge nothing is known: a hole along it has a border on its other sides only
    edge = box(0, 16, 0, 32)
    torch.testing.assert_close(metrics.border_error(box(14, 16, 0, 32) * 0.5, image, edge), torch.tensor([0.5]))
    assert metrics.border_error(box(0, 14, 0, 32) * 0.5, image, edge).item() == 0


def test_gradient_energy_of_ramps() -> None:
    mask = box(4, 14, 5, 25)  # 10 rows, 20 columns
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    across = (0.01 * x).expand(1, 3, 32, 32)
    both = (0.003 * x + 0.004 * y).expand(1, 3, 32, 32)
    torch.testing.assert_close(metrics.gradient_energy(across, mask), torch.tensor([0.01 * 10 * 19]))
    # 9 × 19 pixels with both differences (3-4-5), 9 with the vertical and 19 with the horizontal one alone
    expected = 0.005 * 9 * 19 + 0.004 * 9 + 0.003 * 19
    torch.testing.assert_close(metrics.gradient_energy(both, mask), torch.tensor([expected]))


def test_gradient_ratio_of_copies_blurs_and_flat_fills() -> None:
    image, mask = scene(4), box(16, 48, 16, 48, 64)
    inside = torch.where(mask > 0, 0.5 + 0.5 * (image - 0.5), image)
    flat = torch.where(mask > 0, 0.9, image)  # a seam all around, and nothing inside
    assert metrics.gradient_energy_ratio(image, image, mask).item() == pytest.approx(1)
    assert metrics.gradient_energy_ratio(inside, image, mask).item() == pytest.approx(0.5, rel=1e-4)
    assert metrics.gradient_energy_ratio(flat, image, mask).item() == 0
    assert metrics.gradient_energy_ratio(image, torch.zeros_like(image), mask).isnan().all()


def test_ratio_of_sums_is_not_ruled_by_a_nearly_flat_picture() -> None:
    energies = np.array([[5.0, 10.0], [3.0, 6.0], [1.0, 0.01]])  # filled, original
    assert metrics.ratio_of_sums(energies[None])[0] == pytest.approx(9 / 16.01)
    assert np.isnan(metrics.ratio_of_sums(np.zeros((1, 3, 2)))[0])


@pytest.mark.parametrize("shape", [(64, 64), (37, 52), (11, 11), (12, 40)])
def test_ssim_and_psnr_agree_with_scikit_image(shape) -> None:
    rng = np.random.default_rng(0)
    image = draw_scene(5, 64).image[: shape[0], : shape[1]] / 255
    filled = np.clip(image + rng.normal(0, 0.1, image.shape), 0, 1)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    expected = structural_similarity(image, filled, channel_axis=2, **options)
    composite, original = (torch.from_numpy(a.transpose(2, 0, 1)[None].astype(np.float32)) for a in (filled, image))
    assert metrics.ssim(composite, original).item() == pytest.approx(expected, abs=2e-4)
    expected = peak_signal_noise_ratio(image, filled, data_range=1.0)
    assert metrics.psnr(composite, original).item() == pytest.approx(expected, abs=1e-3)


def test_ssim_and_psnr_are_per_picture_and_finite() -> None:
    image = torch.cat([scene(1), scene(2)])
    composite = image.clone()
    composite[1] = 1 - composite[1]
    similarity, ratio = metrics.ssim(composite, image), metrics.psnr(composite, image)
    assert similarity.shape == ratio.shape == (2,)
    assert similarity[0].item() == pytest.approx(1) and similarity[1] < 0.5
    assert ratio[0].item() == metrics.HIGHEST_PSNR and ratio[1] < 20


def test_psnr_of_a_constant_offset() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    assert metrics.psnr(image + 0.1, image).item() == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("size", [1, 5, 10])
def test_ssim_of_pictures_smaller_than_the_window(size) -> None:
    image = torch.rand(2, 3, size, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metrics.ssim(image, image), torch.ones(2))
    assert (metrics.ssim(1 - image, image) < 0.9).all()


# ---------------------------------------------------------------------------------------------------- uncertainty


def test_interval_matches_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    interval = metrics.bootstrap_interval(values, resamples=8000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    narrow = metrics.bootstrap_interval(values, level=0.5, resamples=8000)
    assert (narrow.high - narrow.low) / (2 * half) == pytest.approx(0.6745 / 1.96, rel=0.05)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(400):
        interval = metrics.bootstrap_interval(rng.gamma(4, 1, 60), resamples=400, seed=trial)
        hits += interval.low <= 4 <= interval.high
    assert 0.90 <= hits / 400 <= 0.97  # 0.95, less a little for 60 values, and a spread of 0.011


def test_interval_of_a_ratio_of_sums_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        original = rng.exponential(1, 60)
        filled = original * rng.uniform(0.2, 1.0, 60)  # true ratio 0.6
        pairs = np.stack([filled, original], 1)
        interval = metrics.bootstrap_interval(pairs, metrics.ratio_of_sums, resamples=300, seed=trial)
        assert interval.low <= interval.value <= interval.high
        hits += interval.low <= 0.6 <= interval.high
    assert 0.89 <= hits / 300 <= 0.98


def test_interval_is_repeatable_and_ignores_missing_values() -> None:
    values = np.random.default_rng(4).random(30)
    first = metrics.bootstrap_interval(values, seed=5)
    assert first == metrics.bootstrap_interval(values, seed=5) != metrics.bootstrap_interval(values, seed=6)
    assert first == metrics.bootstrap_interval(np.insert(values, [3, 17], np.nan), seed=5)


def test_interval_of_one_and_of_none() -> None:
    assert metrics.bootstrap_interval(np.array([0.25])) == (0.25, 0.25, 0.25)
    assert all(map(math.isnan, metrics.bootstrap_interval(np.array([]))))
    assert all(map(math.isnan, metrics.bootstrap_interval(np.array([np.nan]))))
    assert all(map(math.isnan, metrics.bootstrap_interval(np.zeros((3, 2)), metrics.ratio_of_sums)))


def test_pairing_finds_a_difference_that_the_means_hide() -> None:
    rng = np.random.default_rng(6)
    difficulty = rng.normal(0.2, 0.1, 50)
    better, worse = difficulty - 0.01, difficulty + rng.normal(0, 0.01, 50)
    one, other = metrics.bootstrap_interval(better), metrics.bootstrap_interval(worse)
    assert one.high > other.low  # the intervals of the means overlap
    paired = metrics.paired_difference(better, worse)
    assert paired.high < 0 and paired.value == pytest.approx(one.value - other.value)


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        metrics.paired_difference(np.zeros(3), np.zeros(4))
