"""The two halves of a training step, side by side (LaMa, Section 2.2).

The generator moves first; the discriminator then judges a *new* prediction of the updated generator, as the reference
does, or the prediction that the generator just made, which saves a pass and is the default of a run. Both networks stay
in training mode throughout, so that BatchNorm's running statistics advance at every pass. A step takes a list of
batches: their gradients are averaged before the one update (gradient accumulation), and between the processes of a
distributed run.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from lama_minimal import losses
from lama_minimal.config import LossSettings
from lama_minimal.data import Batch
from lama_minimal.models import Discriminator, Generator, generator_input
from lama_minimal.perceptual import PerceptualNetwork

Terms = dict[str, Tensor]
"""Weighted loss terms and the gradient's norm before clipping, detached, by name."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for what runs inside; nothing for float32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")


def generator_step(
    generator: Generator,
    discriminator: Discriminator | None,
    perceptual: PerceptualNetwork | None,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    weights: LossSettings,
    *,
    clip: float = 1.0,
    precision: str = "float32",
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[Terms, list[Tensor]]:
    """Make the prediction harder to tell from the image; the discriminator's weights stay as they are.

    Args:
        generator: in training mode.
        discriminator: in training mode; ``None`` if neither the adversarial nor the feature matching term is used.
        perceptual: frozen; ``None`` if the perceptual term is not used.
        optimizer: of the generator's parameters.
        batches: micro-batches of equal size.
        weights: of the loss terms.
        clip: largest norm of the gradient.
        precision: of the networks; losses are computed in float32.
        scaler: for float16.

    Returns:
        The loss terms, and the prediction (B, 3, H, W) for each batch, made before the update.
    """
    optimizer.zero_grad(set_to_none=True)
    judges: list[Judge] = [partial(_judge_pixels, weights)]
    if discriminator is not None:
        discriminator.zero_grad()  # of its own last step: memory that nothing needs any more
        judges.append(partial(_judge_patches, weights, discriminator))
    if perceptual is not None:
        judges.append(partial(_judge_features, weights, perceptual))
    total: Terms = {}
    predictions = []
    for image, mask in batches:
        with autocast(image.device, precision):
            prediction = generator(generator_input(image, mask))
        judged = prediction.detach().requires_grad_()
        for judge in judges:  # one after another: each hands in its gradient, and lets its feature maps go
            with _frozen(discriminator), autocast(image.device, precision):
                terms = judge(judged, image, mask)
            _backward(sum(terms.values()) / len(batches), scaler)
            _accumulate(total, terms, len(batches))
        prediction.backward(judged.grad)
        predictions.append(judged.detach())
    return total | {"grad_norm_generator": _update(generator, optimizer, clip, scaler)}, predictions


Judge = Callable[[Tensor, Tensor, Tensor], Terms]
"""What a loss makes of a prediction, its image and its mask."""


def _judge_pixels(weights: LossSettings, prediction: Tensor, image: Tensor, mask: Tensor) -> Terms:
    return {"l1": losses.l1(prediction, image, mask, weights.l1_known, weights.l1_hole)}


def _judge_patches(
    weights: LossSettings, discriminator: Discriminator, prediction: Tensor, image: Tensor, mask: Tensor
) -> Terms:
    _, real_features = discriminator(image)
    fake_logits, fake_features = discriminator(prediction)
    matching = losses.feature_matching(fake_features, [feature.detach() for feature in real_features])
    return {
        "adversarial": weights.adversarial * losses.adversarial_generator(fake_logits.float()),
        "feature_matching": weights.feature_matching * matching,
    }


def _judge_features(
    weights: LossSettings, perceptual: PerceptualNetwork, prediction: Tensor, image: Tensor, mask: Tensor
) -> Terms:
    return {"perceptual": weights.perceptual * perceptual(prediction, image)}


def discriminator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    weights: LossSettings,
    *,
    clip: float = 1.0,
    precision: str = "float32",
    predictions: Sequence[Tensor] | None = None,
) -> Terms:
    """Tell filled patches from real ones; the generator's weights stay as they are.

    Real images are judged in float32, because their gradient penalty is differentiated twice.

    Arguments are those of :func:`generator_step`; and ``predictions``, one for each batch, as that function returns
    them, or ``None`` to predict again, with the weights as they are now.
    """
    optimizer.zero_grad(set_to_none=True)
    total: Terms = {}
    # Small gradients vanish in float16, and the discriminator has no scaler.
    fake_precision = "float32" if precision == "float16" else precision
    for index, (image, mask) in enumerate(batches):
        if predictions is None:
            with torch.no_grad(), autocast(image.device, precision):
                prediction = generator(generator_input(image, mask))
        else:
            prediction = predictions[index]
        image = image.detach().requires_grad_(weights.r1 > 0)
        real_logits, _ = discriminator(image)
        with autocast(image.device, fake_precision):
            fake_logits = discriminator(prediction)[0].float()
        fake = losses.fake_target(mask, fake_logits.shape[-2:], weights.mask_target)
        terms = {"discriminator": losses.adversarial_discriminator(real_logits, fake_logits, fake)}
        if weights.r1 > 0:
            terms["r1"] = weights.r1 * losses.r1_penalty(real_logits, image)
        _backward(sum(terms.values()) / len(batches), None)
        _accumulate(total, terms, len(batches))
    return total | {"grad_norm_discriminator": _update(discriminator, optimizer, clip, None)}


class _frozen(AbstractContextManager):  # noqa: N801  reads as a verb where it is used
    """No gradients for a network's own parameters; gradients still flow *through* it."""

    def __init__(self, network: nn.Module | None) -> None:
        self.network = network

    def __enter__(self) -> None:
        if self.network is not None:
            self.network.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        if self.network is not None:
            self.network.requires_grad_(True)


def _backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    (loss if scaler is None else scaler.scale(loss)).backward()


def _accumulate(total: Terms, terms: Terms, batches: int) -> None:
    """Add one micro-batch's share to the step's mean terms."""
    for name, value in terms.items():
        total[name] = total.get(name, 0) + value.detach() / batches


def _update(network: nn.Module, optimizer: Optimizer, clip: float, scaler: torch.amp.GradScaler | None) -> Tensor:
    """Average gradients between processes, clip their norm, move the weights; return the norm before clipping."""
    average_over_processes(parameter.grad for parameter in network.parameters())
    if scaler is not None:  # after the average, so that an overflow in one process is seen by all
        scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return norm.detach()


def average_over_processes(tensors: Iterable[Tensor | None]) -> None:
    """Replace each tensor by its mean over all processes of a distributed run, in place; nothing to do for one process.

    One explicit all-reduce of all gradients together, after the backward pass, instead of a wrapper around the
    networks: the discriminator's step runs two forward passes and a double backward, which such wrappers do not allow
    without exceptions.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    present = [tensor for tensor in tensors if tensor is not None]
    flat = torch.cat([tensor.reshape(-1).float() for tensor in present])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(present, flat.split([tensor.numel() for tensor in present]), strict=True):
        tensor.copy_(mean.view_as(tensor))
