"""Sharp fillings of large pictures, by making a fine scale follow a coarse one (Kulshreshtha et al. 2022).

A network that learned on small pictures sees structure up to about that size. In a large picture a hole is beyond it,
and the filling fades into a blur; in the same picture at half the size it is not, but there detail is missing. Feature
refinement takes the structure from the small picture and the detail from the large one: the small one is filled as
usual, and at the next scale the *feature maps* between the generator's encoder and its trunk (not its weights, and not
pixels) are changed by a few steps of gradient descent, until the prediction, scaled down, agrees with the coarser one.

The method and its constants are those of the authors' code (advimman/lama, ``saicinpainting/evaluation/refinement.py``,
commit 786f593), the reference below. What differs is said where it differs. There is no batch: one picture at a time.

Shape letters: H × W pixels; h × w = H // 2 × W // 2, those of the next coarser scale.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lama_minimal.config import UserError
from lama_minimal.fourier import Branches
from lama_minimal.models import Generator, generator_input, pad_symmetric, size_limits


@dataclass(frozen=True)
class Refinement:
    """How to refine; the defaults are the reference's."""

    learning_rate: float = 0.002
    """Adam's learning rate for the feature maps."""
    passes: int = 15
    """Predictions at each scale but the coarsest: an update after each of them except the last, which is the result."""
    least_side: int = 512
    """Shorter side of the coarsest scale, pixels, within a factor √2: twice the size that the network learned at."""
    most_scales: int = 3
    """Scales, at most. (The reference's own limit of pixels leaves room for two.)"""
    most_pixels: int = 1_800_000
    """Larger pictures are shrunk to this many pixels and the result is enlarged: memory grows with them."""
    erosion: int = 15
    """Diameter of the disc by which the hole, at the coarser scale, shrinks before the prediction must agree, pixels;
    odd, 1 = not at all. Near the border the fine scale, which knows the fine pixels beside it, is left alone. Not to be
    scaled with ``least_side``: for a network that learned at 64 pixels, 3 made thin holes worse than no refinement."""

    def __post_init__(self) -> None:
        least = dict(passes=1, least_side=16, most_scales=1, most_pixels=1, erosion=1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} of the refinement is {getattr(self, name)}: give at least {value}")
        if not self.learning_rate > 0:  # NaN is not, either
            raise UserError(f"learning_rate of the refinement is {self.learning_rate}: give a number above 0")
        if self.erosion % 2 == 0:
            raise UserError(f"erosion of the refinement is {self.erosion}: give an odd number of pixels")


REFERENCE = Refinement()
"""The constants of the authors' code."""


# ------------------------------------------------------------------------------------------------------------- scales


def scale_sizes(height: int, width: int, settings: Refinement) -> list[tuple[int, int]]:
    """The sizes (H, W) at which a picture is filled, coarsest first.

    The last one is the picture's or, if that has more than ``most_pixels``, the largest of its proportions that has
    not. There are ``1 + round(max(0, log2(shorter side / least_side)))`` of them, ``most_scales`` at most.
    """
    if height * width > settings.most_pixels:
        ratio = math.sqrt(settings.most_pixels / (height * width))
        height, width = max(1, int(height * ratio)), max(1, int(width * ratio))
    scales = 1 + round(max(0.0, math.log2(min(height, width) / settings.least_side)))
    return [(height >> k, width >> k) for k in reversed(range(min(scales, settings.most_scales)))]


def scale_down(x: Tensor) -> Tensor:
    """Half the size: a 5×5 Gaussian with σ = 1, mirrored at the border, then bilinear: (B, C, H, W) → (B, C, h, w)."""
    channels, height, width = x.shape[-3:]
    weights = torch.exp(-0.5 * torch.arange(-2.0, 3.0, device=x.device) ** 2)
    weights = weights / weights.sum()
    kernel = torch.outer(weights, weights).expand(channels, 1, 5, 5)
    blurred = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)
    return F.interpolate(blurred, size=(height // 2, width // 2), mode="bilinear", align_corners=False)


def scale_mask_down(mask: Tensor) -> Tensor:
    """Half the size, (B, 1, H, W) → (B, 1, h, w): 1 wherever :func:`scale_down` takes anything from the hole.

    What is under the hole thus never gets into a pixel that counts as known.
    """
    height, width = mask.shape[-2:]
    touched = F.max_pool2d(mask, kernel_size=5, stride=1, padding=2)
    return (F.interpolate(touched, size=(height // 2, width // 2), mode="bilinear", align_corners=False) > 0).to(mask)


def _pyramid(image: Tensor, mask: Tensor, sizes: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    """Image and mask at each of :func:`scale_sizes`; a pixel of a smaller picture is known if all it is made of is."""
    mask = (mask > 0).float()
    if image.shape[-2:] != sizes[-1]:
        # The reference does not filter here: shrunk to less than half, fine patterns turn into false coarse ones.
        shrink = dict(size=sizes[-1], mode="bilinear", align_corners=False, antialias=True)
        image, mask = F.interpolate(image, **shrink), (F.interpolate(mask, **shrink) > 0).float()
    levels = [(image, mask)]
    for _ in sizes[1:]:
        image, mask = scale_down(image), scale_mask_down(mask)
        levels.append((image, mask))
    return levels[::-1]


def guided_region(mask: Tensor, erosion: int) -> Tensor:
    """Where a prediction has to follow the coarser one: pixels of the coarser scale far enough inside the hole.

    A coarse pixel counts as inside where all the fine pixels that it is interpolated from (without the blur, as in the
    reference) are, and is kept if the whole disc around it is. Behind the picture's edge nothing is known, and nothing
    is taken away there.

    Args:
        mask: (1, 1, H, W), 1 = hole.
        erosion: diameter of the disc, pixels of the coarser scale, odd.

    Returns:
        (1, 1, h, w), 1 = follow.
    """
    height, width = mask.shape[-2:]
    known = F.interpolate(1 - mask, size=(height // 2, width // 2), mode="bilinear", align_corners=False) > 0
    disc = torch.from_numpy(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (erosion, erosion))).to(mask)
    return (F.conv2d(known.to(mask), disc[None, None], padding=erosion // 2) < 0.5).to(mask)


# --------------------------------------------------------------------------------------------------------- refinement


def decode_checkpointed(generator: Generator, features: Branches | Tensor) -> Tensor:
    """``generator.decode(features)``, in less memory when gradients are wanted.

    Only what passes between the trunk's blocks and the decoder's layers is kept. The backward pass computes the rest
    once more, a block at a time (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). The process then
    needs 3.4 GB at most to refine 1024² pixels with ``lama-fourier`` on a CPU, without it 6.3, without refinement 1.5.
    """

    def run(layers: nn.Sequential, x: Branches | Tensor) -> Branches | Tensor:
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)  # nothing random in a generator
        return x

    features = run(generator.trunk, features)
    if isinstance(features, tuple):
        features = torch.cat([branch for branch in features if branch is not None], dim=1)
    return torch.sigmoid(run(generator.decoder, features).float())


def refinement_loss(prediction: Tensor, image: Tensor, mask: Tensor, coarser: Tensor, region: Tensor) -> Tensor:
    """What refinement makes small: mean ``|p - x|`` over known pixels plus mean ``|down(p) - coarser|`` in the region.

    The reference counts known pixels in the picture's extension to the generator's multiple, too.

    Args:
        prediction: (1, 3, H, W) in [0, 1].
        image: (1, 3, H, W) in [0, 1].
        mask: (1, 1, H, W), 1 = hole.
        coarser: (1, 3, h, w), the prediction at the coarser scale.
        region: (1, 1, h, w) of :func:`guided_region`.

    Returns:
        A number; a term without a pixel adds nothing.
    """

    def mean_error(ours: Tensor, theirs: Tensor, where: Tensor) -> Tensor:
        return ((ours - theirs).abs() * where).sum() / (3 * where.sum()).clamp(min=1)

    return mean_error(prediction, image, 1 - mask) + mean_error(scale_down(prediction), coarser, region)


def _extended_input(generator: Generator, image: Tensor, mask: Tensor) -> Tensor:
    """The generator's input, extended at the bottom and right to a size that it accepts.

    Mirrored with the last row and column repeated, as everywhere in this package (and in the reference's plain
    prediction; its refinement mirrors without them).
    """
    multiple, least = size_limits(generator)
    extended = [-(-max(side, least) // multiple) * multiple for side in image.shape[-2:]]
    return pad_symmetric(generator_input(image, mask), *extended)


def _predict_like(
    generator: Generator,
    image: Tensor,
    mask: Tensor,
    coarser: Tensor,
    region: Tensor,
    settings: Refinement,
    report: Callable[[], None],
) -> Tensor:
    """The prediction of features that descended from the generator's own to a small :func:`refinement_loss`.

    Gradients are asked for the features alone, so that parameters neither get any nor have to be frozen for it.
    """
    height, width = image.shape[-2:]
    features = generator.encode(_extended_input(generator, image, mask))
    maps = [x for x in (features if isinstance(features, tuple) else (features,)) if x is not None]
    for x in maps:
        x.requires_grad_()
    optimizer = torch.optim.Adam(maps, lr=settings.learning_rate)
    for _ in range(settings.passes - 1):
        with torch.enable_grad():
            prediction = decode_checkpointed(generator, features)[..., :height, :width]
            loss = refinement_loss(prediction, image, mask, coarser, region)
        for x, gradient in zip(maps, torch.autograd.grad(loss, maps), strict=True):
            x.grad = gradient
        optimizer.step()  # in place: ``features`` hold the same tensors
        report()
    return generator.decode(features)[..., :height, :width]


@torch.inference_mode(mode=False)  # a caller's inference mode would forbid gradients
@torch.no_grad()
def refine(
    generator: Generator,
    image: Tensor,
    mask: Tensor,
    settings: Refinement = REFERENCE,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Predict a large picture from coarse to fine.

    The coarsest scale is predicted plainly. So is a scale where erosion leaves nothing of the hole, as with scratches:
    there is no structure to hand on, and coarser scales are not looked at. (The reference goes on there to fit the
    known pixels, and prints a loss of NaN.) With one scale left, this is the prediction without refinement.

    Gradients are computed whatever the caller's mode, and nothing of the generator changes. On a CPU the same call
    gives the same result; on a GPU PyTorch's backward pass of reflection padding adds up in any order.

    Args:
        generator: in evaluation mode.
        image: (1, 3, H, W) in [0, 1], on the generator's device.
        mask: (1, 1, H, W), 1 = hole.
        settings: how to refine.
        progress: called with (done, total) after each prediction.

    Returns:
        The prediction for every pixel, (1, 3, H, W) in [0, 1]. (The reference returns a shrunk picture as it is.)

    Raises:
        ValueError: a generator in training mode, several pictures, or image and mask of different sizes.
    """
    height, width = image.shape[-2:]
    if generator.training:
        raise ValueError("refinement needs a generator in evaluation mode")
    if image.shape != (1, 3, height, width) or mask.shape != (1, 1, height, width):
        raise ValueError(f"expected (1, 3, H, W) and (1, 1, H, W), got {tuple(image.shape)} and {tuple(mask.shape)}")
    levels = _pyramid(image, mask, scale_sizes(height, width, settings))
    regions = [guided_region(fine, settings.erosion) for _, fine in levels[1:]]
    start = max((k for k, region in enumerate(regions, start=1) if not region.any()), default=0)
    total = 1 + settings.passes * (len(levels) - 1 - start)
    done = itertools.count(1)

    def report() -> None:
        if progress is not None:
            progress(next(done), total)

    image, mask = levels[start]
    prediction = generator(_extended_input(generator, image, mask))[..., : image.shape[-2], : image.shape[-1]]
    report()
    for (image, mask), region in zip(levels[start + 1 :], regions[start:], strict=True):
        prediction = _predict_like(generator, image, mask, prediction, region, settings, report)
        report()
    if prediction.shape[-2:] == (height, width):
        return prediction
    return F.interpolate(prediction, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)
