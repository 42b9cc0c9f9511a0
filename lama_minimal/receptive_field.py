"""Receptive fields: which pixels of the picture an output depends on, in theory and in effect.

In theory a stack of convolutions sees a square that grows with every layer (:func:`recursion`, :func:`seen`). In
effect most of that square hardly matters: influence falls off like a bell, because far fewer paths lead to the square's
corners than to its middle (Luo et al. 2016; :func:`effective_field`). A hole wider than the effective field leaves a
pixel in its middle without anything to go by. This is what the Fourier convolutions of LaMa are for.

Shape letters: B pictures, C channels, H × W pixels of the picture; h × w positions and c channels of the output.

Sources: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019;
W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the Effective Receptive Field in Deep CNNs", NeurIPS 2016.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lama_minimal.fourier import FFC, Branches, FFCBlock, FFCResidual
from lama_minimal.models import Decoder, FourierGenerator, Generator, ParallelConv, ResidualBlock

# ------------------------------------------------------------------------------------------- a generator, cut short


def stages(generator: Generator) -> dict[str, nn.Module]:
    """Name the parts of a generator, in the order of the data: ``encoder 1``, …, ``block 1``, …, ``decoder 1``, …."""
    split = [generator.split] if isinstance(generator, FourierGenerator) else []
    parts = {"encoder": [*generator.encoder, *split], "block": [*generator.trunk], "decoder": [*generator.decoder]}
    return {f"{name} {index}": part for name, found in parts.items() for index, part in enumerate(found, start=1)}


class UpTo(nn.Module):
    """A generator that stops after one of its :func:`stages`, sharing its weights.

    After ``block 0`` means before the first block. What comes out of the last decoder stage is the prediction before
    the sigmoid.
    """

    def __init__(self, generator: Generator, stage: str, branch: str | None = None) -> None:
        """Cut a generator short.

        Args:
            generator: any of :mod:`lama_minimal.models`.
            stage: the last one, a name from :func:`stages`.
            branch: ``local`` or ``global`` reads that half of a Fourier generator's channels; None = all.

        Raises:
            ValueError: the generator has no such stage, or the stage no such branch.
        """
        super().__init__()
        named = stages(generator)
        if stage == "block 0":
            stage = [name for name in named if name.startswith("encoder")][-1]
        if stage not in named:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(named)}")
        if branch not in (None, "local", "global"):
            raise ValueError(f"branch is {branch!r}: give 'local', 'global' or None")
        self.stages = nn.ModuleList([*named.values()][: list(named).index(stage) + 1])
        if branch and not isinstance(self.stages[-1], FFCBlock | FFCResidual):
            raise ValueError(f"{stage} has no branches: it is an ordinary feature map")
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 4, H, W) to the stage's output (B, c, h, w)."""
        branches: Branches = (x, None)
        for stage in self.stages:
            is_pair = isinstance(stage, FFCBlock | FFCResidual)
            branches = stage(branches) if is_pair else (stage(_merge(branches)), None)
        return _merge({None: branches, "local": branches[:1], "global": branches[1:]}[self.branch])


def _merge(branches: Sequence[Tensor | None]) -> Tensor:
    present = [branch for branch in branches if branch is not None]
    if not present:
        raise ValueError("this generator has no channels in that branch")
    return torch.cat(present, dim=1)


# ----------------------------------------------------------------------------------------------------------- theory


class Layer(NamedTuple):
    """A layer as the recursion knows it; a Fourier path is a kernel without end."""

    name: str
    kernel: float
    stride: int
    dilation: int


class Field(NamedTuple):
    """What one position of a layer's output sees."""

    name: str
    size: float
    """Side of the square of the picture that it depends on, pixels; infinite = the whole picture."""
    jump: int
    """Distance between neighbouring positions, pixels of the picture."""


def layers(network: nn.Module, name: str = "") -> Iterator[Layer]:
    """The convolutions of a network in their order; of parallel ones, the one that sees farthest.

    A :class:`~lama_minimal.models.Decoder` is left out: the recursion only bounds what transposed convolutions see,
    :func:`seen` knows it exactly.

    Raises:
        ValueError: a transposed convolution elsewhere.
    """
    match network:
        case Decoder():
            return
        case nn.ConvTranspose2d():
            raise ValueError("the recursion knows no transposed convolutions: use seen()")
        case nn.Conv2d():
            yield Layer(name, network.kernel_size[0], network.stride[0], network.dilation[0])
        case FFC() if network.global_to_global is not None:
            yield Layer(name, math.inf, 1, 1)
        case FFC() | ParallelConv():
            convs = [conv for conv in network.modules() if isinstance(conv, nn.Conv2d)]
            widest = max(convs, key=lambda conv: (conv.kernel_size[0] - 1) * conv.dilation[0])
            yield from layers(widest, name)
        case _:
            for child, module in network.named_children():
                yield from layers(module, f"{name}.{child}".lstrip("."))


def recursion(convolutions: Iterable[Layer]) -> list[Field]:
    """The theoretical receptive field after each layer (Araujo et al. 2019).

    Each layer adds ``(kernel - 1) · dilation`` steps, and a step is as long as all strides before it multiplied::

        size += (kernel - 1) · dilation · jump;    jump *= stride

    For example ``recursion(layers(ResidualGenerator()))[-1].size`` is 309.
    """
    size, jump, fields = 1.0, 1, []
    for layer in convolutions:
        size += (layer.kernel - 1) * layer.dilation * jump
        jump *= layer.stride
        fields.append(Field(layer.name, size, jump))
    return fields


class Span(NamedTuple):
    """Positions ``first`` to ``last``, both included; infinite ends mean everything there is."""

    first: float
    last: float

    @property
    def size(self) -> float:
        """How many positions."""
        return self.last - self.first + 1


EVERYTHING = Span(-math.inf, math.inf)


class Window(NamedTuple):
    """A rectangle of the picture; it reaches beyond the border where padding is seen."""

    rows: Span
    columns: Span


def seen(network: nn.Module, pixel: tuple[int, int]) -> Window:
    """The exact theoretical receptive field of one output pixel, walked back from the output through the modules.

    Args:
        network: an :class:`UpTo`, or anything made of this package's layers and torch's convolutions.
        pixel: (row, column) of the output.

    Raises:
        ValueError: a layer whose field is not known here.
    """
    rows, columns = (_back(network, Span(at, at), axis) for axis, at in enumerate(pixel))
    return Window(rows, columns)


def _union(*spans: Span | None) -> Span | None:
    present = [span for span in spans if span is not None]
    return Span(min(s.first for s in present), max(s.last for s in present)) if present else None


def _back(module: nn.Module, span: Span, axis: int) -> Span:
    """The input positions that the outputs ``span`` of ``module`` depend on, in the padding too."""
    match module:
        case _ if span == EVERYTHING:
            return span
        case nn.Conv2d() | nn.ConvTranspose2d():
            return _back_through_conv(module, span, axis)
        case nn.BatchNorm2d() | nn.ReLU() | nn.LeakyReLU() | nn.Sigmoid() | nn.Identity():
            return span  # each position alone; BatchNorm in evaluation mode
        case nn.Sequential():
            for part in reversed(module):
                span = _back(part, span, axis)
            return span
        case ParallelConv():
            return _union(*(_back(conv, span, axis) for conv in module.convs))
        case ResidualBlock():
            return _union(span, _back(module.body, span, axis))
        case UpTo():
            pair = {None: (span, span), "local": (span, None), "global": (None, span)}[module.branch]
            for stage in reversed(module.stages):
                is_pair = isinstance(stage, FFCBlock | FFCResidual)
                pair = _back_pair(stage, pair, axis) if is_pair else (_back(stage, _union(*pair), axis),) * 2
            return _union(*pair)
    raise ValueError(f"what a {type(module).__name__} sees is not known here")


def _back_through_conv(conv: nn.Conv2d | nn.ConvTranspose2d, span: Span, axis: int) -> Span:
    stride, padding = conv.stride[axis], conv.padding[axis]
    reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis]
    if isinstance(conv, nn.ConvTranspose2d):  # input i reaches the outputs i · stride - padding + (0 … reach)
        return Span(-((reach - padding - span.first) // stride), (span.last + padding) // stride)
    return Span(span.first * stride - padding, span.last * stride - padding + reach)


def _back_pair(
    module: FFC | FFCBlock | FFCResidual, pair: tuple[Span | None, Span | None], axis: int
) -> tuple[Span | None, Span | None]:
    """As :func:`_back` for (local, global) branches; ``None`` = nothing of that branch."""
    match module:
        case FFCBlock():
            return _back_pair(module.ffc, pair, axis)
        case FFCResidual():
            inner = _back_pair(module.first, _back_pair(module.second, pair, axis), axis)
            return _union(pair[0], inner[0]), _union(pair[1], inner[1])

    def path(conv: nn.Conv2d | None, span: Span | None) -> Span | None:
        return None if conv is None or span is None else _back(conv, span, axis)

    local, glob = pair
    spectral = EVERYTHING if module.global_to_global is not None and glob is not None else None
    return (
        _union(path(module.local_to_local, local), path(module.local_to_global, glob)),
        _union(path(module.global_to_local, local), spectral),
    )


# --------------------------------------------------------------------------------------------------------- in effect


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, so that BatchNorm does not tie the pixels of a batch together."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Set BatchNorm's running statistics to those of ``inputs``, (B, C, H, W).

    Fresh layers claim mean 0 and variance 1. In evaluation mode an untrained network would then shrink what its blocks
    add until only the shortcuts are left, and its field would be that of the encoder.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 1.0
    network(inputs)
    for norm, training, momentum in before:
        norm.training, norm.momentum = training, momentum


def effective_field(
    network: nn.Module,
    inputs: Tensor,
    pixel: tuple[int, int],
    probes: int | None = 1,
    seed: int = 0,
    batch_size: int = 4,
) -> Tensor:
    """How much each pixel of the picture matters to one output pixel: ``E |∂y/∂x|²`` (Luo et al. 2016).

    Squares are summed over the input's and the output's channels and averaged over the pictures. Exactly that takes one
    backward pass for each output channel. A probe ``v`` of independent standard normal numbers has the same mean,
    ``E_v |∂(v·y)/∂x|² = Σ_c |∂y_c/∂x|²``, for one backward pass. BatchNorm runs in evaluation mode.

    Args:
        network: maps (B, C, H, W) to (B, c, h, w).
        inputs: (N, C, H, W), pictures or noise.
        pixel: (row, column) of the output.
        probes: random directions for each batch; None = every channel, exact.
        seed: of the probes.
        batch_size: pictures at a time.

    Returns:
        (H, W) float64, at least 0.
    """
    random = torch.Generator(inputs.device).manual_seed(seed)
    total = torch.zeros(inputs.shape[-2:], dtype=torch.float64, device=inputs.device)
    with torch.enable_grad(), _evaluation_mode(network):
        for batch in inputs.split(batch_size):
            x = batch.detach().requires_grad_()
            y = network(x)[..., pixel[0], pixel[1]]  # (B, c)
            if probes is None:
                directions = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)[:, None].expand(-1, *y.shape)
            else:
                directions = torch.randn((probes, *y.shape), generator=random, dtype=y.dtype, device=y.device)
            for direction in directions:
                (gradient,) = torch.autograd.grad(y, x, direction, retain_graph=True)
                total += gradient.double().square().sum(dim=(0, 1)) / (probes or 1)
    return total / len(inputs)


@torch.no_grad()
def perturbed_field(
    network: nn.Module,
    inputs: Tensor,
    pixel: tuple[int, int],
    at: Sequence[tuple[int, int]],
    step: float = 1e-3,
    batch_size: int = 64,
) -> Tensor:
    """What :func:`effective_field` estimates, without gradients: change a pixel of the picture, see what happens.

    Each channel of each pixel in ``at`` is moved by ``± step``. With a small step and in float64 the result meets the
    exact gradient; a large step shows what a real change does.

    Args:
        network: as in :func:`effective_field`.
        inputs: (N, C, H, W).
        pixel: (row, column) of the output.
        at: (row, column) of each pixel of the picture to change.
        step: how far, in units of the input.
        batch_size: changed pictures at a time.

    Returns:
        (len(at),) float64: the squared change over the squared step, summed over channels, averaged over pictures.
    """
    channels = inputs.shape[1]
    rows, columns = torch.tensor(at).repeat_interleave(channels, dim=0).T
    channel = torch.arange(channels).repeat(len(at))
    total = torch.zeros(len(at), dtype=torch.float64)
    with _evaluation_mode(network):
        for chunk in torch.arange(len(channel)).split(batch_size):
            place = torch.arange(len(chunk)), channel[chunk], rows[chunk], columns[chunk]
            for picture in inputs:
                more = picture.repeat(len(chunk), 1, 1, 1)
                less = more.clone()
                more[place] += step
                less[place] -= step
                change = (network(more) - network(less))[..., pixel[0], pixel[1]] / (2 * step)  # (chunk, c)
                total.index_add_(0, chunk // channels, change.double().square().sum(dim=1).cpu())
    return total / len(inputs)


def energy_by_distance(field: Tensor, centre: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """How much of a field's energy lies within each distance of ``centre``, (row, column).

    Returns:
        Distances of all H · W pixels in ascending order, pixels, and the share of the energy up to each, 0 to 1.

    Raises:
        ValueError: the field, (H, W), is 0 everywhere.
    """
    height, width = field.shape
    rows, columns = torch.arange(height) - centre[0], torch.arange(width) - centre[1]
    distance, order = torch.hypot(rows[:, None].double(), columns[None].double()).flatten().sort()
    held = field.detach().cpu().double().flatten()[order].cumsum(0)
    if not held[-1] > 0:
        raise ValueError("the field is 0 everywhere: the output depends on nothing")
    return distance, held / held[-1]


def radius_holding(field: Tensor, centre: tuple[float, float], share: float) -> float:
    """Radius of the smallest disc around ``centre`` that holds ``share`` of the field's energy, pixels.

    Args:
        field: (H, W), at least 0 everywhere and somewhere more.
        centre: (row, column); of an output pixel, its place times the network's jump.
        share: 0 to 1, such as 0.5 or 0.9.

    Raises:
        ValueError: the field is 0 everywhere, or the share not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: give a number from 0 to 1")
    distance, held = energy_by_distance(field, centre)
    return distance[min(int(torch.searchsorted(held, share)), len(held) - 1)].item()
