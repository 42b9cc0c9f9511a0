"""Fast Fourier convolution (FFC): a convolution with one foot in the picture and one in its spectrum.

Every 3×3 convolution sees 3×3 pixels. A 1×1 convolution *on the Fourier transform* of a feature map sees all of it,
because each frequency is a sum over every pixel. FFC splits the channels into a **local** branch (ordinary
convolutions) and a **global** branch (spectral ones) and lets the two talk (Chi et al. 2020; LaMa, Section 2.1).

Shape letters: B batch, C channels, H × W pixels, K = W // 2 + 1 columns of the half spectrum of a real signal.
"""

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from lama_minimal import gradients, winograd

Branches = tuple[Tensor | None, Tensor | None]
"""A feature map in two parts, (local, global); a branch without channels is ``None``."""


class PaddedConv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d` that extends its input itself, and takes fewer multiplications where that is faster.

    Nothing is kept for the backward pass but the input, and wide convolutions on a CPU go by
    :mod:`~lama_minimal.winograd`, their weights' gradients by :mod:`~lama_minimal.gradients`.
    """

    def pad(self, x: Tensor) -> Tensor:
        """The input with its border, zeros or mirrored."""
        rows, columns = self.padding
        mode = "reflect" if self.padding_mode == "reflect" else "constant"
        # On a CPU mixed precision would mirror in float32: two copies of every feature map, there and back.
        with torch.autocast(x.device.type, enabled=False):
            return F.pad(x, (columns, columns, rows, rows), mode=mode)

    def pad_backward(self, slope: Tensor, x: Tensor) -> Tensor:
        """The gradient by ``x`` for that by :meth:`pad` of ``x``."""
        rows, columns = self.padding
        if self.padding_mode == "reflect":
            return torch.ops.aten.reflection_pad2d_backward(slope, x, [columns, columns, rows, rows])
        return slope[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H / stride, W / stride)."""
        return self.convolve(x, self.weight, self.bias, self.stride)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        """Extend ``x`` and convolve it with some weight."""
        if torch.compiler.is_compiling():  # a compiler decides for itself what to keep
            return F.conv2d(self.pad(x), weight, bias, stride, 0, self.dilation)
        fewer = winograd.pays(x, weight, stride, self.dilation)
        products = torch.is_grad_enabled() and weight.requires_grad and gradients.pays(x, weight)
        if self.padding_mode == "zeros" and not (fewer or products):  # which PyTorch does without a copy
            return F.conv2d(x, weight, bias, stride, self.padding, self.dilation)
        return _PaddedConvolution.apply(self, x, weight, bias, stride, fewer)


class ReflectConv2d(PaddedConv2d):
    """A convolution whose input is extended by its mirror image, so that no border looks like an edge."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        """Build a convolution that keeps the size, or divides it by ``stride``; ``kernel_size`` is odd."""
        padding = dilation * (kernel_size // 2)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias, padding_mode="reflect"
        )


class _PaddedConvolution(torch.autograd.Function):
    """A convolution that makes the border again for its backward pass.

    PyTorch's own would keep the extended copy of each feature map beside the feature map, which other layers keep
    anyway: a training step would take 6% more memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        conv: PaddedConv2d,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        fewer: bool,
    ) -> Tensor:
        ctx.conv, ctx.stride, ctx.fewer = conv, stride, fewer
        ctx.save_for_backward(x, weight)
        if not fewer:
            return F.conv2d(conv.pad(x), weight, bias, stride, 0, conv.dilation)
        y = winograd.convolve(conv.pad(x), weight, conv.dilation[0])
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        conv, (x, weight), kind = ctx.conv, ctx.saved_tensors, slope.dtype  # of mixed precision
        wanted = ctx.needs_input_grad[1:4]
        if ctx.fewer and not torch.is_grad_enabled():  # else this gradient shall have a gradient
            padded = conv.pad(x) if wanted[1] else None
            of_padded, of_weight = winograd.convolve_backward(slope, padded, weight, conv.dilation[0], wanted[0])
            of_bias = slope.sum(dim=(0, 2, 3)) if wanted[2] else None
        else:
            of_padded, of_weight, of_bias = gradients.backward(
                slope, conv.pad(x).to(kind), weight.to(kind), ctx.stride, conv.dilation, wanted
            )
        of_x = None if of_padded is None else conv.pad_backward(of_padded.to(x.dtype), x)
        return None, of_x, of_weight, of_bias, None, None  # autograd brings each to its own precision


def project_hermitian(half_spectrum: Tensor, width: int) -> Tensor:
    """Return the half spectrum of the real signal closest to what ``half_spectrum`` describes.

    The 2-D spectrum of a real signal satisfies ``X[-k, -l] = conj(X[k, l])``. In a half spectrum this binds the first
    column, and for an even width the last one, to themselves: ``X[-k, l] = conj(X[k, l])``. A ReLU breaks that, and
    inverse transforms then differ between libraries and devices in what they silently make of it. Replacing both
    columns by the mean of themselves and their mirror image leaves nothing to interpretation.

    Args:
        half_spectrum: (B, C, H, K) complex, as from ``torch.fft.rfft2``.
        width: W, the width of the signal that the half spectrum describes.
    """
    step = half_spectrum.shape[-1] if width % 2 else width // 2  # the first column, or the first and the last
    columns = half_spectrum[..., ::step]  # (B, C, H, 1 or 2)
    mirrored = columns.flip(-2).roll(1, dims=-2).conj()  # row k holds row -k
    projected = half_spectrum.clone()
    projected[..., ::step] = (columns + mirrored) / 2
    return projected


class FourierUnit(nn.Module):
    """A 1×1 convolution, BatchNorm and ReLU on the real and imaginary parts of the spectrum (LaMa, Section 2.1).

    The ReLU is what makes the unit global: without it an impulse's energy stays in its row and the mirrored row; with
    it, about half of that energy spreads over the picture. It also costs shift equivariance: a spectrum that is
    never negative has a positive mean, which is a bright pixel at (0, 0), wherever the picture was moved.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the unit for ``in_channels`` → ``out_channels`` real feature maps."""
        super().__init__()
        self.conv = nn.Conv2d(2 * in_channels, 2 * out_channels, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H, W), for any H and W, odd ones too."""
        height, width = x.shape[-2:]
        wide = torch.promote_types(x.dtype, torch.float32)  # transforms never run in half precision
        spectrum = torch.view_as_real(torch.fft.rfft2(x.to(wide), norm="ortho"))
        spectrum = rearrange(spectrum, "b c h k part -> b (c part) h k")  # re₀, im₀, re₁, im₁, …
        spectrum = F.relu_(self.norm(self.conv(spectrum.to(x.dtype))))
        spectrum = rearrange(spectrum.to(wide), "b (c part) h k -> b c h k part", part=2)
        spectrum = project_hermitian(torch.view_as_complex(spectrum.contiguous()), width)
        return torch.fft.irfft2(spectrum, s=(height, width), norm="ortho").to(x.dtype)


class LocalFourierUnit(nn.Module):
    """A Fourier unit on the four quadrants of a quarter of the channels (LFU; Chi et al. 2020, off in LaMa's presets).

    The quadrants are stacked as channels, transformed together and tiled over the picture, so that it sees structure
    that repeats at half the picture's size.
    """

    def __init__(self, channels: int) -> None:
        """Build the unit for ``channels`` → ``channels`` maps; ``channels`` is a multiple of 4."""
        super().__init__()
        if channels % 4:
            raise ValueError(f"a local Fourier unit needs a multiple of 4 channels, got {channels}")
        self.read = channels // 4
        self.unit = FourierUnit(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); odd sides are extended by one row or column and cropped again."""
        height, width = x.shape[-2:]
        quarter = F.pad(x[:, : self.read], (0, width % 2, 0, height % 2), mode="replicate")
        # The order of the authors' code: top-left, bottom-left, top-right, bottom-right.
        stacked = rearrange(quarter, "b c (y h) (x w) -> b (x y c) h w", y=2, x=2)
        tiled = repeat(self.unit(stacked), "b c h w -> b c (y h) (x w)", y=2, x=2)
        return tiled[..., :height, :width]


class SpectralTransform(nn.Module):
    """The global-to-global path: 1×1 to half the channels, Fourier unit with a shortcut, 1×1 back (Figure 2 right)."""

    def __init__(self, in_channels: int, out_channels: int, lfu: bool = False) -> None:
        """Build the transform; ``lfu`` adds a :class:`LocalFourierUnit` beside the Fourier unit."""
        super().__init__()
        half = out_channels // 2
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(True))
        self.fourier_unit = FourierUnit(half, half)
        self.local_fourier_unit = LocalFourierUnit(half) if lfu else None
        self.expand = nn.Conv2d(half, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H, W)."""
        x = self.reduce(x)
        mixed = x + self.fourier_unit(x)
        if self.local_fourier_unit is not None:
            mixed = mixed + self.local_fourier_unit(x)
        return self.expand(mixed)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> ReflectConv2d | None:
    """A convolution without bias, or ``None`` where one side has no channels."""
    if not in_channels or not out_channels:
        return None
    return ReflectConv2d(in_channels, out_channels, kernel_size, stride, bias=False)


def _sum(*terms: Tensor | None) -> Tensor | None:
    """Add the terms that are there; ``None`` where none is."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


class FFC(nn.Module):
    """Fast Fourier convolution (LaMa, Section 2.1 and Figure 2).

    ``local_out = local_to_local(local) + global_to_local(global)`` and
    ``global_out = local_to_global(local) + global_to_global(global)``: three ordinary convolutions and one
    :class:`SpectralTransform`. Channels are given as pairs (local, global); 0 means that the branch is absent.
    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        out_channels: tuple[int, int],
        kernel_size: int,
        stride: int = 1,
        lfu: bool = False,
    ) -> None:
        """Build the four paths.

        Raises:
            ValueError: a stride other than 1 with a global input; the spectral path keeps the size.
        """
        super().__init__()
        (local_in, global_in), (local_out, global_out) = in_channels, out_channels
        spectral = bool(global_in and global_out)
        if spectral and stride != 1:
            raise ValueError("the global-to-global path keeps the size: use stride 1 where both sides have it")
        self.local_to_local = _conv(local_in, local_out, kernel_size, stride)
        self.local_to_global = _conv(local_in, global_out, kernel_size, stride)
        self.global_to_local = _conv(global_in, local_out, kernel_size, stride)
        self.global_to_global = SpectralTransform(global_in, global_out, lfu) if spectral else None

    def forward(self, branches: Branches) -> Branches:
        """Map (B, C_local, H, W) and (B, C_global, H, W) to the two outputs; absent branches are ``None``."""
        local, glob = branches

        def run(path: nn.Module | None, x: Tensor | None) -> Tensor | None:
            return None if path is None or x is None else path(x)

        return (
            _sum(run(self.local_to_local, local), run(self.global_to_local, glob)),
            _sum(run(self.local_to_global, local), run(self.global_to_global, glob)),
        )


class FFCBlock(nn.Module):
    """FFC, then BatchNorm and ReLU on each branch."""

    def __init__(
        self,
        in_channels: tuple[int, int],
        out_channels: tuple[int, int],
        kernel_size: int,
        stride: int = 1,
        lfu: bool = False,
    ) -> None:
        """Build the block; the arguments are those of :class:`FFC`."""
        super().__init__()
        self.ffc = FFC(in_channels, out_channels, kernel_size, stride, lfu)
        local_out, global_out = out_channels
        self.local_norm = nn.BatchNorm2d(local_out) if local_out else None
        self.global_norm = nn.BatchNorm2d(global_out) if global_out else None

    def forward(self, branches: Branches) -> Branches:
        """Map a pair of branches to a pair of branches."""
        local, glob = self.ffc(branches)
        return (
            None if local is None else F.relu_(self.local_norm(local)),
            None if glob is None else F.relu_(self.global_norm(glob)),
        )


class FFCResidual(nn.Module):
    """Two 3×3 FFC blocks and a shortcut; nothing follows the addition (LaMa, Figure 2)."""

    def __init__(self, channels: tuple[int, int], lfu: bool = False) -> None:
        """Build the block for ``channels`` = (local, global), the same at input and output."""
        super().__init__()
        self.first = FFCBlock(channels, channels, 3, lfu=lfu)
        self.second = FFCBlock(channels, channels, 3, lfu=lfu)

    def forward(self, branches: Branches) -> Branches:
        """Map a pair of branches to a pair of the same shapes."""
        local, glob = self.second(self.first(branches))
        return _sum(branches[0], local), _sum(branches[1], glob)
