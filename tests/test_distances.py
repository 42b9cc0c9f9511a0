"""Distances of sets, against closed forms, simulation and other solvers."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize

from lama_minimal import distances
from lama_minimal.checkpoint import load_loss_network
from lama_minimal.config import UserError
from lama_minimal.distances import (
    extract,
    f1_with_fid,
    feature_distance,
    frechet_distance,
    inception_discriminative_scores,
    kernel_distance,
    separating_plane,
    set_distances,
)
from lama_minimal.scenes import draw_scene


def normal(count: int, features: int, seed: int, mean: float = 0, scale: float = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(count, features, generator=generator, dtype=torch.float64)


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T @ np.linalg.cholesky(covariance).T
    return torch.from_numpy(x + mean)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    first = with_moments(np.array([1.0, 2, 3]), np.diag([1.0, 4, 9]), 50, 0)
    second = with_moments(np.array([1.0, 0, 3]), np.diag([4.0, 4, 1]), 70, 1)
    # commuting covariances: |Δμ|² + Σ (σ₁ − σ₂)²
    assert frechet_distance(first, second) == pytest.approx(4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, abs=1e-9)
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(4, 4)) for _ in range(2))
    one, other = a @ a.T + np.eye(4), b @ b.T + np.eye(4)
    expected = np.trace(one + other - 2 * sqrtm(one @ other).real)
    found = frechet_distance(with_moments(np.zeros(4), one, 60, 3), with_moments(np.zeros(4), other, 60, 4))
    assert found == pytest.approx(expected, abs=1e-8)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_fid_of_equal_distributions_falls_with_the_number_of_pictures() -> None:
    """The bias that SetDistances.fid_real is there for: real to real is not 0."""
    found = [
        np.mean([frechet_distance(normal(n, 20, 2 * s), normal(n, 20, 2 * s + 1)) for s in range(6)])
        for n in (50, 200, 800)
    ]
    assert found[0] > 3 * found[1] > 9 * found[2] > 0.1


def test_kernel_distance_is_unbiased_and_sees_a_difference() -> None:
    equal = [kernel_distance(normal(40, 8, 2 * s), normal(40, 8, 2 * s + 1), 1, 40)[0] for s in range(300)]
    error = np.std(equal) / math.sqrt(len(equal))
    assert abs(np.mean(equal)) < 3 * error and min(equal) < 0 < max(equal)
    shifted, _ = kernel_distance(normal(200, 8, 0), normal(200, 8, 1, mean=0.5), 20, 100)
    assert shifted > 50 * error


def test_kernel_distance_by_its_definition_and_repeatable() -> None:
    x, y = normal(30, 5, 0), normal(30, 5, 1, mean=0.3)

    def kernel(a, b):
        return (a @ b.T / 5 + 1) ** 3

    within = sum((k.sum() - k.diagonal().sum()) / (30 * 29) for k in (kernel(x, x), kernel(y, y)))
    expected = within - 2 * kernel(x, y).mean()
    before = torch.get_rng_state()
    assert kernel_distance(x, y, 3) == pytest.approx((float(expected), 0), abs=1e-9)
    assert torch.equal(before, torch.get_rng_state())
    assert kernel_distance(x, y, 5, 10, seed=1) == kernel_distance(x, y, 5, 10, seed=1)


@pytest.mark.parametrize("cost", [1.0, 0.05])
def test_the_plane_is_the_minimum_that_another_solver_finds(cost) -> None:
    real, fake = normal(60, 4, 0, mean=0.4), normal(50, 4, 1)
    x = np.c_[torch.cat([real, fake]).numpy(), np.ones(110)]
    y = np.r_[np.ones(60), -np.ones(50)]

    def objective(w):
        violation = np.maximum(0, 1 - y * (x @ w))
        return w @ w / 2 + cost * violation @ violation, w - 2 * cost * x.T @ (y * violation)

    expected = minimize(objective, np.zeros(5), jac=True, method="BFGS", options=dict(gtol=1e-9)).x
    w, b = separating_plane(real, fake, cost)
    np.testing.assert_allclose([*w.tolist(), b], expected, atol=1e-6)


def test_ids_of_equal_and_of_separable_sets() -> None:
    points = normal(80, 3, 0)
    assert inception_discriminative_scores(points, points) == (0, 0.5)
    assert inception_discriminative_scores(points + 100, points) == (0, 0)
    paired, unpaired = inception_discriminative_scores(normal(4000, 3, 1), normal(4000, 3, 2))
    assert paired == pytest.approx(0.5, abs=0.03) and unpaired == pytest.approx(0.5, abs=0.03)
    # a known overlap: two normals two deviations apart are mistaken Φ(−1) = 0.159 of the time, by pairs Φ(−√2) = 0.079
    paired, unpaired = inception_discriminative_scores(normal(8000, 1, 3, mean=1), normal(8000, 1, 4, mean=-1))
    assert unpaired == pytest.approx(0.1587, abs=0.01) and paired == pytest.approx(0.0786, abs=0.01)
    assert all(map(math.isnan, inception_discriminative_scores(normal(10, 30, 0), normal(10, 30, 1))))


def test_real_to_real_stands_beside_at_the_same_number() -> None:
    real, others, fake = normal(60, 6, 0), normal(60, 6, 1), normal(60, 6, 2, mean=1)
    found = set_distances(fake, real, others)
    assert found.count == 60 and found.fid_real == frechet_distance(others, real) < found.fid
    assert set_distances(real, real, others).fid == pytest.approx(0, abs=1e-9)
    assert set_distances(real, real, others).fid_others == found.fid_real  # perfect fillings: what real pictures get
    fewer = set_distances(fake, real, others[:20])
    assert fewer.fid_real == frechet_distance(others[:20], real[:20]) and fewer.fid == found.fid
    assert math.isnan(set_distances(fake, real, others[:1]).fid_real)
    with pytest.raises(ValueError, match="pairs"):
        set_distances(fake[:9], real, others)


def test_the_originals_score() -> None:
    assert f1_with_fid(0.8, 20) == pytest.approx(2 * 0.8 * 0.8 / 1.601)
    assert f1_with_fid(0.9, 150) == 0 and f1_with_fid(0, 100) == 0


# ---------------------------------------------------------------------------------------------------------- features


@pytest.fixture(scope="module")
def network():
    return load_loss_network("scenes-segmentation", batch_statistics=False)


def scenes(kind: str, first: int, count: int) -> torch.Tensor:
    images = np.stack([draw_scene((11, first + n), 32, kind).image for n in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def test_features_tell_sets_apart_whatever_the_batches(network) -> None:
    extractor = distances.deepest(load_loss_network("scenes-segmentation"))  # turns batch statistics off
    bricks, hills = scenes("bricks", 0, 12), scenes("hills", 0, 12)
    features = extract(bricks.split(5), extractor)
    assert features.shape == (12, 256) and torch.allclose(features, extract([bricks], extractor), atol=1e-5)
    same = frechet_distance(extract([scenes("bricks", 50, 12)], extractor), features)
    assert same < frechet_distance(extract([hills], extractor), features) / 3


def test_feature_distance_is_of_each_picture_and_grows_with_the_damage(network) -> None:
    images = scenes("windows", 0, 3)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = [feature_distance(network, (images + s * noise).clamp(0, 1), images) for s in (0, 0.05, 0.2)]
        alone = feature_distance(network, (images[1:2] + 0.05 * noise[1:2]).clamp(0, 1), images[1:2])
    assert found[0].tolist() == [0, 0, 0] and (found[1] > 0).all() and (found[2] > found[1]).all()
    torch.testing.assert_close(alone[0], found[1][1], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="batch statistics"):
        feature_distance(load_loss_network("scenes-segmentation"), images, images)


@pytest.mark.parametrize("part", [distances.inception, distances.lpips])
def test_without_the_extra_one_line_names_it(part) -> None:
    try:
        import torchvision  # noqa: F401

        pytest.skip("torchvision is installed")
    except ImportError:
        pass
    with pytest.raises(UserError, match=r"lama-minimal\[metrics\]|torchvision"):
        part()


def test_torch_fidelity_without_torchvision_is_one_line(tmp_path) -> None:
    """What that pair of packages does to torchmetrics, played by a package of that name."""
    package = tmp_path / "torch_fidelity"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.3.0'\n")
    for name in ("feature_extractor_inceptionv3", "helpers", "interpolate_compat_tensorflow"):
        (package / f"{name}.py").write_text("raise ModuleNotFoundError(\"No module named 'torchvision'\")\n")
    (tmp_path / "torch_fidelity-0.3.0.dist-info").mkdir()
    (tmp_path / "torch_fidelity-0.3.0.dist-info/METADATA").write_text("Name: torch-fidelity\nVersion: 0.3.0\n")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from lama_minimal.config import UserError\n"
        "try:\n    from lama_minimal import metrics, distances; distances.inception()\n"
        "except UserError as error: print('ONE LINE', error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ONE LINE" in done.stdout and "pip install torchvision" in done.stdout
