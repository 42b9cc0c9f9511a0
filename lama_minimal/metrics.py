"""How far a filled picture is from the original: pure functions of tensors, one number for each picture.

Images are (B, 3, H, W) in [0, 1], masks (B, 1, H, W) with 1 = hole; every measure returns (B,). A number that does not
exist, such as the error inside an absent hole, is NaN, and :func:`bootstrap_interval` leaves NaNs out.

SSIM and PSNR look at the whole picture and therefore mostly at pixels that were never missing. The errors look at
the hole, and the gradient at what they cannot see: a blur has a small error and no texture.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lama_minimal.config import UserError

BORDER_WIDTH = 2
"""Width of the band that counts as the hole's border, pixels."""

HIGHEST_PSNR = 100.0
"""PSNR of two equal pictures, dB: the true value is infinite, which no mean survives."""

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window (σ = 1.5), pixels."""


def from_torchmetrics(module: str, name: str) -> Any:
    """A function or class of torchmetrics, imported when it is first needed: importing it takes as long as torch.

    Raises:
        UserError: torch-fidelity is installed without torchvision: torchmetrics imports the one, that the other.
    """
    try:
        return getattr(import_module(f"torchmetrics.{module}"), name)
    except ImportError as error:
        fix = "pip install torchvision, or pip uninstall torch-fidelity"
        raise UserError(f"torchmetrics cannot load {name} ({error}): {fix}") from error


def _mean_inside(values: Tensor, region: Tensor) -> Tensor:
    """Mean of (B, C, H, W) over a region (B, 1, H, W) of zeros and ones and over the channels; NaN without a region."""
    inside = (values * region).sum(dim=(1, 2, 3))
    return inside / (region.sum(dim=(1, 2, 3)) * values.shape[1])  # 0 / 0 is NaN


def hole_error(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the hole's pixels and channels, 0 to 1.

    Args:
        composite: (B, 3, H, W) filled pictures; pixels outside the hole do not matter.
        image: (B, 3, H, W) originals.
        mask: (B, 1, H, W), 1 = hole.

    Returns:
        (B,); NaN where there is no hole.
    """
    return _mean_inside((composite - image).abs(), mask)


def border_band(mask: Tensor, width: int = BORDER_WIDTH) -> Tensor:
    """The hole's pixels at most ``width`` steps (to any of 8 neighbours) from a known pixel, (B, 1, H, W).

    The picture's own edge is no border: nothing is known behind it.
    """
    near_known = F.max_pool2d(1 - mask, 2 * width + 1, stride=1, padding=width)
    return mask * near_known


def border_error(composite: Tensor, image: Tensor, mask: Tensor, width: int = BORDER_WIDTH) -> Tensor:
    """Mean absolute error over the hole's border, 0 to 1: how visible the seam is.

    The band of :func:`border_band` lies inside the hole. On its outermost pixels this error *is* the error of the
    jump from known to filled, ``(c_hole - c_known) - (x_hole - x_known)``, because known pixels agree.

    Args:
        composite: (B, 3, H, W) filled pictures.
        image: (B, 3, H, W) originals.
        mask: (B, 1, H, W), 1 = hole.
        width: of the band, pixels.

    Returns:
        (B,); NaN where there is no hole or nothing is known.
    """
    return _mean_inside((composite - image).abs(), border_band(mask, width))


def gradient_energy(image: Tensor, mask: Tensor) -> Tensor:
    """Sum over the hole of the gradient's magnitude ``sqrt(dx² + dy²)``, the channels' mean.

    ``dx`` and ``dy`` are differences to the right and lower neighbour and count only where both pixels lie inside the
    hole: the seam, which a bad filling makes sharp, adds nothing.

    Args:
        image: (B, 3, H, W) filled or original pictures.
        mask: (B, 1, H, W), 1 = hole.

    Returns:
        (B,), at least 0.
    """
    across = (image[..., 1:] - image[..., :-1]) * mask[..., 1:] * mask[..., :-1]
    down = (image[..., 1:, :] - image[..., :-1, :]) * mask[..., 1:, :] * mask[..., :-1, :]
    across, down = F.pad(across, (0, 1)), F.pad(down, (0, 0, 0, 1))  # (B, 3, H, W) again
    return torch.hypot(across, down).mean(dim=1).sum(dim=(1, 2))


def gradient_energy_ratio(composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Gradient energy in the hole, the filling's over the original's: 1 = as sharp, 0 = flat, above 1 = too busy.

    Over several pictures take the ratio of the sums (:func:`ratio_of_sums`): the mean of ratios is ruled by the few
    pictures whose original is nearly flat.

    Returns:
        (B,); NaN where the original is flat inside the hole.
    """
    original = gradient_energy(image, mask)
    ratio = gradient_energy(composite, mask) / original
    return torch.where(original > 0, ratio, torch.nan)


def ssim(composite: Tensor, image: Tensor) -> Tensor:
    """Structural similarity of whole pictures, 11×11 Gaussian window with σ = 1.5 (Wang et al. 2004; torchmetrics).

    The mean is over windows that lie wholly inside the picture, as in Wang's code and scikit-image; torchmetrics alone
    also counts windows over a mirrored border. Pictures smaller than the window are first extended to it by repeating
    their last row and column.

    Args:
        composite: (B, 3, H, W) in [0, 1].
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B,), at most 1; 1 = equal.
    """
    height, width = image.shape[-2:]
    missing = (0, max(0, SSIM_WINDOW - width), 0, max(0, SSIM_WINDOW - height))
    if any(missing):
        composite, image = (F.pad(x, missing, mode="replicate") for x in (composite, image))
    similarity = from_torchmetrics("functional.image", "structural_similarity_index_measure")
    _, everywhere = similarity(
        composite, image, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )  # (B, 3, H, W)
    reach = SSIM_WINDOW // 2
    return everywhere[..., reach:-reach, reach:-reach].mean(dim=(1, 2, 3))


def psnr(composite: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of whole pictures, ``-10 log10(mean squared error)`` dB, at most 100 (torchmetrics).

    Args:
        composite: (B, 3, H, W) in [0, 1].
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B,) dB.
    """
    ratio = from_torchmetrics("functional.image", "peak_signal_noise_ratio")
    return ratio(composite, image, data_range=1.0, reduction="none", dim=(1, 2, 3)).clamp(max=HIGHEST_PSNR)


# ---------------------------------------------------------------------------------------------------- uncertainty


class Interval(NamedTuple):
    """A statistic and its confidence interval."""

    value: float
    low: float
    high: float


Statistic = Callable[[np.ndarray], np.ndarray]
"""(R, N, ...) → (R,): one number for each of R resamples of N values."""


def mean(resamples: np.ndarray) -> np.ndarray:
    """Means of R resamples, (R, N) → (R,)."""
    return resamples.mean(axis=1)


def ratio_of_sums(resamples: np.ndarray) -> np.ndarray:
    """Sum of the first column over the sum of the second, (R, N, 2) → (R,); NaN where the second sum is 0."""
    above, below = np.moveaxis(resamples.sum(axis=1), -1, 0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def bootstrap_interval(
    values: np.ndarray, statistic: Statistic = mean, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A statistic of a sample and its percentile bootstrap interval (Efron 1979).

    The pictures are drawn again with replacement, ``resamples`` times; the interval holds the middle ``level`` of the
    statistics. With few pictures it is too narrow (simulated for normal values at level 0.95, it holds the true mean
    0.94 of the time with 48, 0.90 with 10 and 0.83 with 5), and with one it has no width.

    Args:
        values: (N,), or (N, K) for a statistic of several numbers for each picture; rows with a NaN are left out.
        statistic: vectorised, (R, N) or (R, N, K) → (R,), such as :func:`mean` or :func:`ratio_of_sums`.
        level: share of the resamples inside the interval, 0 to 1.
        resamples: R.
        seed: of the draws; the same seed and N give the same draws.

    Returns:
        The interval; all NaN without a value.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values.reshape(len(values), -1)).any(axis=1)] if len(values) else values
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    statistics = statistic(values[drawn])
    # A resample of flat pictures only has no ratio.
    statistics = statistics[~np.isnan(statistics)]
    value = float(statistic(values[None])[0])
    if not len(statistics):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def paired_difference(
    first: np.ndarray, second: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of ``first - second`` over the same pictures, with its bootstrap interval.

    Two methods meet the same easy and hard pictures, so their difference is known far better than either mean:
    overlapping intervals of the means do not show that the methods are equal.

    Args:
        first: (N,) values of one method.
        second: (N,) values of another one on the same pictures, in the same order.
        level: as in :func:`bootstrap_interval`.
        resamples: as in :func:`bootstrap_interval`.
        seed: as in :func:`bootstrap_interval`.

    Raises:
        ValueError: a different number of values.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired values must be two (N,) arrays, not {first.shape} and {second.shape}")
    return bootstrap_interval(first - second, mean, level, resamples, seed)
