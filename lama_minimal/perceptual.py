"""Networks for the perceptual loss: distances between *features* instead of pixels (LaMa, Section 2.2).

The paper's point is the receptive field: filling a large hole is a global question, so the loss network should see
far too. It takes a ResNet50 whose last two stages are **dilated** instead of strided, trained for segmentation on
ADE20K, and calls the result the high-receptive-field (HRF) perceptual loss.

Shape letters: B batch, H × W pixels; a stage's features are (B, C, H / s, W / s), s = 4 or 8 (undilated: up to 32).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lama_minimal.fourier import FFCBlock, FFCResidual, PaddedConv2d

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RECOMPUTED_STAGES = 2
"""Stages of a frozen ResNet that are computed again, with its stem, for the backward pass, so that their feature maps
need not be kept: a third of the maps' memory, but a seventh of the work."""


def hrf_loss(prediction_features: Sequence[Tensor], target_features: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the mean squared difference of features (Equation 1; the reference sums, it never averages).

    Args:
        prediction_features: feature maps of the prediction, one tensor a stage.
        target_features: those of the target, of the same shapes.
    """
    return sum(mean_square(p, t) for p, t in zip(prediction_features, target_features, strict=True))


def mean_square(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of two feature maps of the same shape, a scalar.

    Squares are summed in float32 at least, since those of large features overflow half precision.
    """
    return _MeanSquare.apply(first, second)


class _MeanSquare(torch.autograd.Function):
    """The mean square, by keeping the difference alone, in the maps' own precision and memory layout.

    ``mse_loss`` would keep both maps in float32, and its gradient comes in the order of the dimensions, so that the
    layers behind it would each read one tensor across the other.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        difference = first - second
        ctx.save_for_backward(difference)
        wide = difference.to(torch.promote_types(difference.dtype, torch.float32))
        return torch.linalg.vector_norm(wide).square() / difference.numel()  # its own dtype=… takes four times as long

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor | None]:
        (difference,) = ctx.saved_tensors
        of_first = difference * (slope * (2 / difference.numel()))
        return of_first, -of_first if ctx.needs_input_grad[1] else None


def _conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
) -> list[nn.Module]:
    padding = dilation * (kernel_size // 2)
    conv = PaddedConv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class ResidualUnit(nn.Module):
    """A ResNet's basic block (two 3×3) or bottleneck (1×1, 3×3, 1×1 with four times the channels)."""

    def __init__(self, in_channels: int, width: int, bottleneck: bool, stride: int, dilations: tuple[int, int]) -> None:
        """Build the unit.

        Args:
            in_channels: channels of the input.
            width: channels inside; the output has ``4 * width`` for a bottleneck, else ``width``.
            bottleneck: which of the two forms.
            stride: of the first 3×3 convolution and of the shortcut.
            dilations: of the 3×3 convolutions, in order (a bottleneck has only the first).
        """
        super().__init__()
        first, second = dilations
        if bottleneck:
            out_channels = 4 * width
            layers = [
                *_conv_norm(in_channels, width, 1),
                nn.ReLU(inplace=True),
                *_conv_norm(width, width, 3, stride, first),
                nn.ReLU(inplace=True),
                *_conv_norm(width, out_channels, 1),
            ]
        else:
            out_channels = width
            layers = [
                *_conv_norm(in_channels, width, 3, stride, first),
                nn.ReLU(inplace=True),
                *_conv_norm(width, width, 3, 1, second),
            ]
        self.body = nn.Sequential(*layers)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Sequential(*_conv_norm(in_channels, out_channels, 1, stride)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H / stride, W / stride)."""
        return F.relu_(self.body(x).add_(self.shortcut(x)))


class ResNetEncoder(nn.Module):
    """A ResNet with a deep stem; its last two stages are dilated by 2 and 4, or strided as usual.

    With bottlenecks and (3, 4, 6, 3) blocks this is the ADE20K ResNet50 encoder of the paper.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
        width: int = 64,
        stem_channels: tuple[int, int, int] = (64, 64, 128),
        dilated: bool = True,
    ) -> None:
        """Build the encoder.

        Args:
            blocks: residual units in each stage.
            bottleneck: units of three convolutions (ResNet50 and deeper) instead of two (18 and 34).
            width: inner channels of the first stage; doubled at each next one.
            stem_channels: channels of the stem's three 3×3 convolutions.
            dilated: keep the last two stages at an eighth of the size by dilation (a high receptive field).
        """
        super().__init__()
        self.shape = dict(blocks=blocks, bottleneck=bottleneck, width=width, stem_channels=stem_channels)
        first, second, third = stem_channels
        self.stem = nn.Sequential(
            *_conv_norm(3, first, 3, stride=2),
            nn.ReLU(inplace=True),
            *_conv_norm(first, second, 3),
            nn.ReLU(inplace=True),
            *_conv_norm(second, third, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList()
        channels = third
        for depth, count in enumerate(blocks):
            strided = depth == 1 or (depth > 1 and not dilated)
            dilation = 2 ** (depth - 1) if dilated and depth > 1 else 1
            inner = width * 2**depth
            units = []
            for index in range(count):
                # A strided convolution turned into a dilated one reads the same pixels with half its stage's dilation.
                entry = max(1, dilation // 2) if index == 0 else dilation
                stride = 2 if strided and index == 0 else 1
                units.append(ResidualUnit(channels, inner, bottleneck, stride, (entry, dilation)))
                channels = inner * (4 if bottleneck else 1)
            self.stages.append(nn.Sequential(*units))
        self.channels = channels
        self.recompute = False  # only where it changes nothing: BatchNorm would count every picture twice

    def with_dilation(self, dilated: bool) -> "ResNetEncoder":
        """The same weights with dilated or strided last stages: neither changes a weight's shape."""
        other = ResNetEncoder(**self.shape, dilated=dilated)
        other.load_state_dict(self.state_dict())
        return other

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised RGB (B, 3, H, W) to the feature maps of the stages, shallow to deep."""
        x = self._shallow(self.stem, x)
        features = []
        for depth, stage in enumerate(self.stages):
            x = self._shallow(stage, x) if depth < RECOMPUTED_STAGES else stage(x)
            features.append(x)
        return features

    def _shallow(self, part: nn.Module, x: Tensor) -> Tensor:
        """``part(x)``; if it is to be computed again, nothing between is kept for the backward pass."""
        if self.recompute and x.requires_grad and torch.is_grad_enabled():
            return checkpoint(part, x, use_reentrant=False, preserve_rng_state=False)
        return part(x)


class VGG19Encoder(nn.Module):
    """VGG19 up to its fifth stage, with average instead of max pooling; every ReLU's output is a feature map."""

    STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))
    """Channels and convolutions of each stage; the paper's baseline stops after the first convolution of the last."""

    def __init__(self, stages: Sequence[tuple[int, int]] = STAGES) -> None:
        """Build the encoder, VGG19 or one of other ``stages``; its convolutions lie in ``convs``."""
        super().__init__()
        self.stages = stages
        self.convs = nn.ModuleList()
        channels = 3
        for width, count in stages:
            for _ in range(count):
                self.convs.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
                channels = width
        self.channels = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised RGB (B, 3, H, W) to a feature map a convolution (13), the last at a sixteenth of the size."""
        features = []
        convs = iter(self.convs)
        for stage, (_, count) in enumerate(self.stages):
            if stage:
                x = F.avg_pool2d(x, 2)
            for _ in range(count):
                x = F.relu_(next(convs)(x))
                features.append(x)
        return features


class FourierEncoder(nn.Module):
    """An encoder of fast Fourier convolutions: behind its stem, every unit sees the whole picture.

    The paper asks for a loss network with a high receptive field and names Fourier convolutions as another way to one
    (Section 2.2), without trying it.
    """

    def __init__(self, width: int = 48, blocks: Sequence[int] = (2, 2, 3), global_ratio: float = 0.75) -> None:
        """Build the encoder.

        Args:
            width: channels after the first convolution; doubled at each of the two next.
            blocks: residual FFC blocks of each stage, all at an eighth of the size with ``4 * width`` channels.
            global_ratio: share of the channels in the global (Fourier) branch, 0 to 1.
        """
        super().__init__()
        self.channels = 4 * width
        in_global = int(self.channels * global_ratio)
        branches = (self.channels - in_global, in_global)
        self.stem = nn.Sequential(
            *_conv_norm(3, width, 3, stride=2),
            nn.ReLU(inplace=True),
            *_conv_norm(width, 2 * width, 3, stride=2),
            nn.ReLU(inplace=True),
        )
        self.split = FFCBlock((2 * width, 0), branches, kernel_size=3, stride=2)
        self.stages = nn.ModuleList(nn.Sequential(*(FFCResidual(branches) for _ in range(n))) for n in blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised RGB (B, 3, H, W) to the feature maps of stem and stages, at a quarter and an eighth."""
        x = self.stem(x)
        features, branches = [x], self.split((x, None))
        for stage in self.stages:
            branches = stage(branches)
            features.append(torch.cat(branches, dim=1))
        return features


Encoder = ResNetEncoder | VGG19Encoder | FourierEncoder


def build_encoder(shape: Mapping[str, Any]) -> Encoder:
    """The encoder of a card's numbers, the arguments of one of the three: which one, their names say."""
    if "global_ratio" in shape:
        return FourierEncoder(**shape)
    return VGG19Encoder(**shape) if "stages" in shape else ResNetEncoder(**shape)


class PerceptualNetwork(nn.Module):
    """A frozen encoder that measures how far apart two pictures are, as the sum over its stages of :func:`hrf_loss`."""

    def __init__(self, encoder: nn.Module, batch_statistics: bool = True) -> None:
        """Wrap and freeze ``encoder``.

        Args:
            encoder: maps ImageNet-normalised RGB to a list of feature maps.
            batch_statistics: whether BatchNorm normalises with the statistics of the batch at hand, as during the
                paper's training (the weight of 30 was tuned so), or with its running statistics, which makes the
                loss larger: by a factor of tens where brightness or contrast differ, of a few elsewhere.
        """
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        if isinstance(encoder, ResNetEncoder):
            encoder.recompute = True
        self.batch_statistics = batch_statistics
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # looking at pictures must not change the network
        self.train()

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        """Follow ``batch_statistics``, whatever the caller's mode: this network is never trained here."""
        return super().train(self.batch_statistics)

    def compute_in(self, precision: torch.dtype) -> "PerceptualNetwork":
        """Round the convolutions' weights to the precision of a mixed-precision run, once instead of at every call.

        Mixed precision does the same with weights that are never trained, and does not keep the result. Outside of a
        run in that precision, the network can no longer be called.
        """
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                module.to(precision)
        return self

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps, shallow to deep, of an image (B, 3, H, W) in [0, 1]."""
        return self.encoder((image - self.mean) / self.std)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Unweighted distance (a scalar) of two images (B, 3, H, W) in [0, 1]; no gradient reaches ``target``."""
        with torch.no_grad():
            target_features = self.features(target)
        return hrf_loss(self.features(prediction), target_features)
