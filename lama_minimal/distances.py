"""How far a *set* of filled pictures is from a set of real ones: FID, KID, P-IDS and U-IDS; and LPIPS, by a network.

All of them look at features, and the numbers of different feature networks, picture counts or protocols never belong
into one table. The original's are those of Inception (FID) and VGG16 (LPIPS); they come with the extra ``metrics``.
Anything else that makes numbers of pictures can take their place, such as the loss networks that ship here.

FID is biased upwards, the more the fewer pictures: two halves of one set of photographs are *not* at distance 0.
:class:`SetDistances` therefore holds the distance of real to real pictures at the same number beside it.

Shape letters: B batch, N and M pictures of two sets, D features of each.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lama_minimal.config import UserError
from lama_minimal.metrics import from_torchmetrics
from lama_minimal.perceptual import PerceptualNetwork

Extractor = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [0, 1] → features (B, D)."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""KID is the mean over so many random subsets of so many pictures (Bińkowski et al. 2018), or of all there are."""

LEAST_SPARE = 2
"""Pictures that P-IDS and U-IDS need for each feature: below, a plane separates any two sets."""


# --------------------------------------------------------------------------------------------------------- extractors


def inception(device: torch.device | str = "cpu") -> Extractor:
    """The 2048 features of the original's FID: Inception v3 with the weights of the TensorFlow port.

    Raises:
        UserError: the extra ``metrics`` is not installed, or the weights cannot be downloaded.
    """
    kind = from_torchmetrics("image.fid", "NoTrainInceptionV3")
    try:
        network = kind(name="inception-v3-compat", features_list=["2048"]).to(device)
    except ModuleNotFoundError as error:
        raise UserError("Inception features need torch-fidelity: pip install 'lama-minimal[metrics]'") from error
    except OSError as error:
        raise UserError(f"the weights of Inception cannot be downloaded ({error}): try again with a network") from error
    return lambda images: network((images * 255).round().to(torch.uint8))


def deepest(network: PerceptualNetwork) -> Extractor:
    """The deepest features of a loss network, averaged over the picture; BatchNorm by its running statistics."""
    network.batch_statistics = False
    network.train()  # as batch_statistics says
    return lambda images: network.features(images)[-1].float().mean(dim=(2, 3))


@torch.no_grad()
def extract(pictures: Iterable[Tensor], extractor: Extractor, device: torch.device | str = "cpu") -> Tensor:
    """Features (N, D) of pictures that come in batches (B, 3, H, W), float64 on the CPU."""
    return torch.cat([extractor(batch.to(device)).double().cpu() for batch in pictures])


# ---------------------------------------------------------------------------------------------------- between pictures


def feature_distance(network: PerceptualNetwork, composite: Tensor, image: Tensor) -> Tensor:
    """Distance of features, place by place: LPIPS (Zhang et al. 2018) without its learned weights.

    Each stage's features are brought to length 1 at every place; their squared differences are averaged over places
    and summed over stages. Of pictures and stages alike none counts for more because its features are large.

    Args:
        network: with ``batch_statistics`` off, so that a picture's number does not depend on the others.
        composite: (B, 3, H, W) in [0, 1].
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B,), from 0 to twice the number of stages or more.

    Raises:
        ValueError: a network that mixes the pictures of a batch.
    """
    if network.batch_statistics:
        raise ValueError("a distance of single pictures needs a network without batch statistics")

    def unit(features: Tensor) -> Tensor:
        return features / features.norm(dim=1, keepdim=True).clamp_min(1e-8)

    pairs = zip(network.features(composite), network.features(image), strict=True)
    return sum((unit(one.float()) - unit(other.float())).square().sum(1).mean((1, 2)) for one, other in pairs)


def lpips(device: torch.device | str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS as the original measures it, with VGG16: (B, 3, H, W) twice → (B,).

    Raises:
        UserError: the extra ``metrics`` is not installed, or the weights cannot be downloaded.
    """
    kind = from_torchmetrics("image.lpip", "LearnedPerceptualImagePatchSimilarity")
    try:
        metric = kind(net_type="vgg", normalize=True).to(device)
    except (ModuleNotFoundError, RuntimeError) as error:  # torchvision may be there and not fit
        raise UserError("LPIPS needs torchvision: pip install 'lama-minimal[metrics]'") from error
    except OSError as error:
        raise UserError(f"the weights of VGG16 cannot be downloaded ({error}): try again with a network") from error

    @torch.no_grad()
    def distances(composite: Tensor, image: Tensor) -> Tensor:
        return torch.stack([metric(one[None], other[None]) for one, other in zip(composite, image, strict=True)])

    return distances


# -------------------------------------------------------------------------------------------------------- between sets


class _Features(nn.Module):
    """What torchmetrics takes for a network: features are their own features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _computed(metric: Any, real: Tensor, fake: Tensor) -> Any:
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians with the features' means and covariances (FID; Heusel et al. 2017).

    ``|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)``, by torchmetrics, in float64. The root is taken through eigenvalues,
    which cannot turn it complex by rounding; what rounding leaves below 0 is 0.

    Args:
        real: (N, D), N at least 2.
        fake: (M, D), M at least 2.
    """
    kind = from_torchmetrics("image.fid", "FrechetInceptionDistance")
    return max(0.0, float(_computed(kind(feature=_Features(real.shape[1])), real.double(), fake.double())))


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """KID (Bińkowski et al. 2018): squared maximum mean discrepancy, kernel ``(x·y / D + 1)³``; by torchmetrics.

    Unbiased, so that equal distributions have a mean of 0 for any number of pictures, and single values below 0.

    Args:
        real: (N, D).
        fake: (M, D).
        subsets: random subsets of both sets.
        subset_size: pictures in each; of a smaller set, all.
        seed: of the subsets.

    Returns:
        Mean over the subsets, and their standard deviation (which is no error of the mean: subsets overlap).
    """
    kind = from_torchmetrics("image.kid", "KernelInceptionDistance")
    size = min(subset_size, len(real), len(fake))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that features are kept in memory, where they are already
        torch.manual_seed(seed)
        metric = kind(feature=_Features(real.shape[1]), subsets=subsets, subset_size=size)
        mean, deviation = _computed(metric, real.double(), fake.double())
    return float(mean), float(deviation)


def separating_plane(real: Tensor, fake: Tensor, cost: float = 1.0, steps: int = 100) -> tuple[Tensor, float]:
    """The linear support vector machine between two sets, squared hinge loss, as CoModGAN fits it.

    It minimises ``½ |w|² + ½ b² + cost Σ max(0, 1 − y (w·x + b))²`` (what scikit-learn's ``LinearSVC`` with
    ``dual=False`` does). Where the same points violate their margin the function is quadratic, so that Newton's method
    with halved steps ends after a few exact solutions (Keerthi and DeCoste 2005).

    Args:
        real: (N, D), wanted above 0.
        fake: (M, D), wanted below 0.
        cost: of violations.
        steps: at most.

    Returns:
        w (D,) and b.
    """
    points = torch.cat([real, fake]).double()
    x = torch.cat([points, torch.ones(len(points), 1, dtype=torch.float64)], dim=1)  # b is one more weight
    y = torch.cat([torch.ones(len(real)), -torch.ones(len(fake))]).double()
    w = torch.zeros(x.shape[1], dtype=torch.float64)

    def objective(w: Tensor) -> Tensor:
        return w.square().sum() / 2 + cost * (1 - y * (x @ w)).clamp_min(0).square().sum()

    for _ in range(steps):
        active = x[y * (x @ w) < 1]
        targets = y[y * (x @ w) < 1]
        matrix = 2 * cost * active.T @ active + torch.eye(len(w), dtype=torch.float64)
        step = torch.linalg.solve(matrix, 2 * cost * active.T @ targets) - w
        size, before = 1.0, objective(w)
        while objective(w + size * step) > before and size > 1e-10:
            size /= 2
        w = w + size * step
        if step.norm() <= 1e-9 * (1 + w.norm()):
            break
    return w[:-1], float(w[-1])


def inception_discriminative_scores(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """P-IDS and U-IDS (Zhao et al. 2021): how often a plane between the sets takes filled pictures for real ones.

    As there, the plane is judged on the pictures it was fitted to. With fewer than some two pictures for each feature
    it separates anything from anything, and there is no number.

    Args:
        real: (N, D) features of the originals.
        fake: (N, D) of the fillings, in the same order.

    Returns:
        P-IDS, the share of fillings that look more real than their own original, and U-IDS, the share of all pictures
        on the wrong side: 0 = always told apart, 0.5 = chance. NaN with too few pictures.
    """
    if len(real) + len(fake) < LEAST_SPARE * real.shape[1]:
        return float("nan"), float("nan")
    w, b = separating_plane(real, fake)
    above, below = real.double() @ w + b, fake.double() @ w + b
    paired = (below > above).double().mean()
    unpaired = ((above <= 0).double().mean() + (below > 0).double().mean()) / 2
    return float(paired), float(unpaired)


class SetDistances(NamedTuple):
    """A set of fillings, their originals, and other real pictures, as many."""

    count: int
    """Pictures of each set."""
    fid: float
    """Fillings to their originals: what papers report. It can fall below that of real to real pictures."""
    fid_others: float
    """Fillings to other real pictures: this one cannot, but for chance."""
    fid_real: float
    """Originals to other real pictures: what real pictures get at this number of them."""
    kid: float
    """Fillings to their originals: pairs, not independent draws, so it is biased low; compare methods by it."""
    kid_deviation: float
    """Over subsets."""
    p_ids: float
    u_ids: float


def set_distances(fake: Tensor, real: Tensor, others: Tensor) -> SetDistances:
    """All distances of sets.

    Args:
        fake: (N, D) features of the fillings.
        real: (N, D) of their originals.
        others: (M, D) of other real pictures; as many as there are of both are compared, NaN with fewer than two.

    Raises:
        ValueError: fewer than two fillings, or not as many as originals.
    """
    if fake.shape != real.shape or len(fake) < 2:
        raise ValueError(f"fillings {tuple(fake.shape)} and originals {tuple(real.shape)} must be pairs, two at least")
    nan = float("nan")
    beside = (nan, nan)
    if len(others) >= 2:
        same = min(len(others), len(real))  # FID of different numbers of pictures cannot be compared
        beside = tuple(frechet_distance(others[:same], one[:same]) for one in (fake, real))
    return SetDistances(
        len(fake),
        frechet_distance(real, fake),
        *beside,
        *kernel_distance(real, fake),
        *inception_discriminative_scores(real, fake),
    )


def f1_with_fid(quality: float, fid: float) -> float:
    """The original's score of a checkpoint: F1 of a quality in [0, 1] and of ``(100 − FID) / 100``, at least 0.

    Args:
        quality: SSIM, or ``1 − LPIPS``.
        fid: FID.
    """
    closeness = max(0.0, 100 - fid) / 100
    return 2 * quality * closeness / (quality + closeness + 1e-3)  # the original's guard against 0 / 0
