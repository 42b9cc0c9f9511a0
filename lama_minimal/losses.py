"""The five losses, each a pure function of tensors (LaMa, Sections 2.2 and 2.3). Weights are applied by the caller.

Shape letters: B batch, H × W pixels, h × w the discriminator's logits (a patch of the picture each).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lama_minimal.perceptual import hrf_loss, mean_square

__all__ = [
    "adversarial_discriminator",
    "adversarial_generator",
    "fake_target",
    "feature_matching",
    "hrf_loss",
    "l1",
    "r1_penalty",
]

MaskTarget = Literal["nearest", "any-overlap"]


def l1(prediction: Tensor, image: Tensor, mask: Tensor, known: float = 1.0, hole: float = 0.0) -> Tensor:
    """Weighted mean absolute error, ``mean(|p - x| · (known · (1 - m) + hole · m))``.

    The published models were trained with ``known=10, hole=0``: pixels inside the hole are judged by the other losses
    only, since several fillings are plausible and their mean is a blur.
    """
    weight = known * (1 - mask) + hole * mask  # (B, 1, H, W)
    return ((prediction - image).abs() * weight).mean()


def adversarial_generator(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator, ``mean softplus(-D(p))`` (Equation 3), over known and filled patches."""
    return F.softplus(-fake_logits).mean()


def fake_target(mask: Tensor, size: Sequence[int], overlap: MaskTarget = "nearest") -> Tensor:
    """Which patches of a generated picture count as fake: (B, 1, h, w) with 1 = fake.

    Args:
        mask: (B, 1, H, W), 1 = hole.
        size: (h, w) of the logits.
        overlap: ``"nearest"`` shrinks the mask by nearest neighbour, as the published models were trained;
            ``"any-overlap"`` calls every patch fake whose cell touches the hole, as the paper describes it.
    """
    if overlap == "any-overlap":
        return F.adaptive_max_pool2d(mask, tuple(size))
    return F.interpolate(mask, size=tuple(size), mode="nearest")


def adversarial_discriminator(real_logits: Tensor, fake_logits: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator with mask-aware targets (Equation 2).

    Every patch of the real picture is real; a patch of the generated one is fake where ``fake`` is 1 and real
    elsewhere, because there the generator only repeats what it was given.

    Args:
        real_logits: (B, 1, h, w) on real images.
        fake_logits: (B, 1, h, w) on predictions.
        fake: (B, 1, h, w), from :func:`fake_target`.
    """
    on_real = F.softplus(-real_logits)
    on_fake = fake * F.softplus(fake_logits) + (1 - fake) * F.softplus(-fake_logits)
    return (on_real + on_fake).mean()


def r1_penalty(real_logits: Tensor, image: Tensor) -> Tensor:
    """Mean over the batch of ``‖∇ₓ Σ D(x)‖²`` (Mescheder et al. 2018, without the factor ½; Equation 4).

    Args:
        real_logits: (B, 1, h, w) computed from ``image``.
        image: (B, 3, H, W) that requires a gradient.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), image, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def feature_matching(fake_features: Sequence[Tensor], real_features: Sequence[Tensor]) -> Tensor:
    """Mean over the discriminator's layers of the mean squared difference of features (Wang et al. 2018)."""
    return torch.stack([mean_square(f, r) for f, r in zip(fake_features, real_features, strict=True)]).mean()
