"""Generators and the discriminator (LaMa, Sections 2.1, 2.3 and supplementary).

A generator is an encoder (three times half the size, twice the channels), a trunk of residual blocks where the
thinking is done at an eighth of the size, and a decoder. What the paper compares is the trunk: Fourier, regular or
dilated convolutions.

Shape letters: B batch, H × W pixels, multiples of ``2 ** downsamplings``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lama_minimal.fourier import Branches, FFCBlock, FFCResidual, PaddedConv2d, ReflectConv2d
from lama_minimal.gradients import TransposedConv2d

DILATIONS = {"regular": (1,), "dilated": (1, 2, 4, 8)}
"""Dilations of the parallel 3×3 convolutions in a residual block without Fourier convolutions."""


def generator_input(image: Tensor, mask: Tensor) -> Tensor:
    """What a generator reads: the image with its hole blacked out, and the mask: (B, 3 + 1, H, W)."""
    return torch.cat([image * (1 - mask), mask], dim=1)


def composite(prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The prediction inside the hole, the image outside: ``m · p + (1 - m) · x``."""
    return mask * prediction + (1 - mask) * image


def size_limits(generator: nn.Module) -> tuple[int, int]:
    """What a generator asks of a picture's sides: (they are multiples of this, they are at least this), pixels.

    Reflection padding needs more pixels than it adds: at the trunk's size, more than the largest dilation.
    """
    modules = list(generator.modules())
    multiple = math.prod(module.stride[0] for module in modules if isinstance(module, nn.ConvTranspose2d))
    dilation = max((module.dilation[0] for module in modules if isinstance(module, nn.Conv2d)), default=0)
    return multiple, multiple * (dilation + 1)


def pad_symmetric(x: Tensor, height: int, width: int) -> Tensor:
    """Extend (B, C, h, w) at the bottom and right to (B, C, height, width) by mirroring, as often as it takes."""

    def mirrored(length: int, target: int) -> Tensor:
        index = torch.arange(target, device=x.device) % (2 * length)  # 0 1 2 2 1 0 0 1 …
        return torch.where(index < length, index, 2 * length - 1 - index)

    if x.shape[-2] != height:
        x = x.index_select(-2, mirrored(x.shape[-2], height))
    return x if x.shape[-1] == width else x.index_select(-1, mirrored(x.shape[-1], width))


class ConvBlock(nn.Sequential):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        """Build the block around ``conv``."""
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


class ColourConv(ReflectConv2d):
    """The 7×7 convolution from many channels to three colours, four pixels at a time.

    Three output channels leave most of a processor's vector lanes idle. An 8×8 convolution with stride 2 holds the
    7×7 kernel at its four places and computes a 2×2 block of pixels as twelve channels: the same sums, two to three
    times as fast.
    """

    def blockwise(self, side: int) -> tuple[Tensor, Tensor]:
        """Weight (3 · side², C, 6 + side, 6 + side) and bias that compute a block of side × side pixels at once."""
        places = [(x, side - 1 - x, y, side - 1 - y) for y in range(side) for x in range(side)]
        weight = torch.stack([F.pad(self.weight, place) for place in places], dim=1).flatten(0, 1)
        return weight, self.bias.repeat_interleave(side**2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), H and W even, to (B, 3, H, W)."""
        return F.pixel_shuffle(self.convolve(x, *self.blockwise(2), stride=(2, 2)), 2)


class Decoder(nn.Sequential):
    """Transposed convolutions back to full size, then a 7×7 convolution to three colours (before the sigmoid)."""

    def __init__(self, channels: Sequence[int]) -> None:
        """Build the decoder; ``channels`` from the trunk outwards, for example (512, 256, 128, 64)."""
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(channels):
            up = TransposedConv2d(wide, narrow, kernel_size=3, stride=2, padding=1, output_padding=1)
            layers += [ConvBlock(up)]
        super().__init__(*layers, ColourConv(channels[-1], 3, kernel_size=7))


def _channels(width: int, downsamplings: int, max_channels: int) -> list[int]:
    """Channels at each depth: ``width`` doubled at each downsampling, up to ``max_channels``."""
    return [min(max_channels, width * 2**depth) for depth in range(downsamplings + 1)]


class FourierGenerator(nn.Module):
    """LaMa's generator: a trunk of FFC residual blocks (``lama-fourier``, ``big-lama``)."""

    training_size: int = 256
    """Side of the pictures that the weights were trained on, pixels."""
    coarse_to_fine: bool = False
    """Whether wide holes in larger pictures are better filled so: see :class:`~lama_minimal.inference.Inpainter`."""
    seamless: bool = True
    """Whether fillings are fitted to what is around them: see :class:`~lama_minimal.inference.Inpainter`."""

    def __init__(
        self,
        width: int = 64,
        blocks: int = 9,
        downsamplings: int = 3,
        max_channels: int = 1024,
        global_ratio: float = 0.75,
        lfu: bool = False,
    ) -> None:
        """Build the generator.

        Args:
            width: channels of the first layer; doubled at each downsampling.
            blocks: residual blocks in the trunk.
            downsamplings: how often the size is halved.
            max_channels: upper limit of the channels.
            global_ratio: share of the trunk's channels in the global (Fourier) branch, 0 to 1.
            lfu: add local Fourier units.
        """
        super().__init__()
        channels = _channels(width, downsamplings, max_channels)
        global_channels = int(channels[-1] * global_ratio + 1e-6)  # a ratio read off tensors may end in …9999
        trunk = (channels[-1] - global_channels, global_channels)
        self.encoder = nn.Sequential(
            ConvBlock(ReflectConv2d(4, width, kernel_size=7, bias=False)),
            *(ConvBlock(ReflectConv2d(*pair, kernel_size=3, stride=2, bias=False)) for pair in pairwise(channels[:-1])),
        )
        self.split = FFCBlock((channels[-2], 0), trunk, kernel_size=3, stride=2)
        self.trunk = nn.Sequential(*(FFCResidual(trunk, lfu) for _ in range(blocks)))
        self.decoder = Decoder(channels[::-1])

    def encode(self, x: Tensor) -> Branches:
        """Map the (B, 4, H, W) input to the trunk's (local, global) feature maps at an eighth of the size."""
        return self.split((self.encoder(x), None))

    def decode(self, branches: Branches) -> Tensor:
        """Map feature maps of :meth:`encode` to the (B, 3, H, W) prediction in [0, 1]: trunk, then decoder."""
        merged = torch.cat([branch for branch in self.trunk(branches) if branch is not None], dim=1)
        return torch.sigmoid(self.decoder(merged).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map :func:`generator_input`, (B, 4, H, W), to a prediction (B, 3, H, W) in [0, 1]."""
        return self.decode(self.encode(x))


class ParallelConv(nn.Module):
    """Parallel 3×3 convolutions of different dilation, each reading its share of the channels, summed.

    With one dilation this is an ordinary convolution.
    """

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        """Build the convolutions; ``channels`` is a multiple of ``len(dilations)``."""
        super().__init__()
        share = channels // len(dilations)
        self.convs = nn.ModuleList(ReflectConv2d(share, channels, kernel_size=3, dilation=d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); H and W larger than the largest dilation."""
        shares = x.chunk(len(self.convs), dim=1)
        first, *others = (conv(share) for conv, share in zip(self.convs, shares, strict=True))
        return sum(others, first)


class ResidualBlock(nn.Module):
    """Convolution, BatchNorm, ReLU, convolution, BatchNorm, and a shortcut."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        """Build the block of two :class:`ParallelConv`."""
        super().__init__()
        self.body = nn.Sequential(
            ParallelConv(channels, dilations),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            ParallelConv(channels, dilations),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + self.body(x)


class ResidualGenerator(nn.Module):
    """The generators LaMa is compared with: ``lama-regular`` (one dilation) and ``lama-dilated`` (1, 2, 4, 8)."""

    training_size: int = 256
    """Side of the pictures that the weights were trained on, pixels."""
    coarse_to_fine: bool = False
    """Whether wide holes in larger pictures are better filled so: see :class:`~lama_minimal.inference.Inpainter`."""
    seamless: bool = True
    """Whether fillings are fitted to what is around them: see :class:`~lama_minimal.inference.Inpainter`."""

    def __init__(
        self,
        width: int = 64,
        blocks: int = 9,
        downsamplings: int = 3,
        max_channels: int = 1024,
        dilations: Sequence[int] = (1,),
    ) -> None:
        """Build the generator; the arguments are those of :class:`FourierGenerator` and :class:`ParallelConv`."""
        super().__init__()
        channels = _channels(width, downsamplings, max_channels)
        self.encoder = nn.Sequential(
            ConvBlock(ReflectConv2d(4, width, kernel_size=7)),
            *(ConvBlock(PaddedConv2d(*pair, kernel_size=3, stride=2, padding=1)) for pair in pairwise(channels)),
        )
        self.trunk = nn.Sequential(*(ResidualBlock(channels[-1], dilations) for _ in range(blocks)))
        self.decoder = Decoder(channels[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """Map the (B, 4, H, W) input to the trunk's feature map at an eighth of the size."""
        return self.encoder(x)

    def decode(self, features: Tensor) -> Tensor:
        """Map a feature map of :meth:`encode` to the (B, 3, H, W) prediction in [0, 1]: trunk, then decoder."""
        return torch.sigmoid(self.decoder(self.trunk(features)).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map :func:`generator_input`, (B, 4, H, W), to a prediction (B, 3, H, W) in [0, 1]."""
        return self.decode(self.encode(x))


Generator = FourierGenerator | ResidualGenerator


def build_generator(
    convolution: str, width: int, blocks: int, downsamplings: int, max_channels: int, global_ratio: float, lfu: bool
) -> Generator:
    """The generator of these settings (the fields of :class:`~lama_minimal.config.GeneratorSettings`)."""
    if convolution == "fourier":
        return FourierGenerator(width, blocks, downsamplings, max_channels, global_ratio, lfu)
    return ResidualGenerator(width, blocks, downsamplings, max_channels, DILATIONS[convolution])


class Discriminator(nn.Module):
    """Patch discriminator: each logit judges one patch of the picture, real or generated (Section 2.2).

    4×4 convolutions with LeakyReLU 0.2; BatchNorm on all but the first and the last.
    """

    def __init__(self, width: int = 64, layers: int = 4, max_channels: int = 512) -> None:
        """Build the network.

        Args:
            width: channels of the first layer; doubled at each next one.
            layers: convolutions with stride 2; two with stride 1 follow.
            max_channels: upper limit of the channels.
        """
        super().__init__()
        channels = [3] + [min(max_channels, width * 2**depth) for depth in range(layers + 1)]
        self.stages = nn.ModuleList()
        for depth, (narrow, wide) in enumerate(pairwise(channels)):
            conv = nn.Conv2d(narrow, wide, kernel_size=4, stride=2 if depth < layers else 1, padding=2)
            norm = [nn.BatchNorm2d(wide)] if depth else []
            self.stages.append(nn.Sequential(conv, *norm, nn.LeakyReLU(0.2, inplace=True)))
        self.head = nn.Conv2d(channels[-1], 1, kernel_size=4, padding=2)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge (B, 3, H, W); return the logits (B, 1, h, w), positive = real, and the feature maps before them."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return self.head(image), features


def count_parameters(network: nn.Module) -> int:
    """Number of trainable numbers in ``network``."""
    return sum(parameter.numel() for parameter in network.parameters())
