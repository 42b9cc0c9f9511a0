"""Gradients of convolutions by their weights as products of matrices, on processors where that is faster.

The gradient by the element of a kernel at the offset k is a sum over all pixels: ``Σ_p slope[p, o] · x[p + k, c]``.
With channels innermost a picture is a matrix, a pixel a row, and "k further" is the same matrix from a later row on:
each element is a product of two matrices, and the input need not be copied for it. The slope is: its rows are made as
long as those of the input, by zeros at their ends. With a stride s, every s-th pixel makes a picture of its own.

Shape letters: B batch, C channels, H × W pixels, h × w pixels of the output, k × l pixels of the kernel.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_CHANNELS = 64
"""Fewest channels of input and of output; with 24 × 48 products take 1.3 to 1.5 times as long as oneDNN's own sums."""


def only_avx2() -> bool:
    """Whether the processor has AVX2, but not AVX-512: oneDNN is fast there, too, but not always."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`by_weight` is faster for an input (B, C, H, W) and a (C_out, C, k, l) or (C, C_out, k, l) weight.

    In float32, with AVX2 but not AVX-512 (untried there): oneDNN makes such gradients at 18 to 80 GFLOP/s, all else at
    110 to 170. On an AMD EPYC (Zen 3) products were 1.5 to 2 times as fast without a stride, 1.3 to 3.7 with one.
    """
    return (
        x.device.type == "cpu"
        and only_avx2()
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and weight[0, 0].numel() > 1
    )


def by_weight(x: Tensor, slope: Tensor, kernel: tuple[int, int], stride: int = 1, dilation: int = 1) -> Tensor:
    """The gradient by the weight of a convolution without padding. Not differentiable.

    Args:
        x: (B, C, H, W), the input with its border.
        slope: (B, C_out, h, w), the gradient by the output.
        kernel: (k, l).
        stride: of the convolution.
        dilation: of the convolution.

    Returns:
        (C_out, C, k, l).
    """
    height, width = (
        pixels + (side - 1) * dilation // stride for pixels, side in zip(slope.shape[2:], kernel, strict=True)
    )
    slopes = slope.new_zeros(len(slope), height, width, slope.shape[1])
    slopes[:, : slope.shape[2], : slope.shape[3]] = slope.permute(0, 2, 3, 1)
    slopes = slopes.flatten(0, 2)
    missing = stride * height - x.shape[2], stride * width - x.shape[3]
    if max(missing) > 0:  # what only zeros of the slope will meet
        x = F.pad(x, (0, max(0, missing[1]), 0, max(0, missing[0])))
    result = slope.new_empty(*kernel, slope.shape[1], x.shape[1])
    for down, right in product(range(stride), repeat=2):
        pixels = x.permute(0, 2, 3, 1)[:, down::stride, right::stride][:, :height, :width].flatten(0, 2)
        for i, j in product(*map(range, kernel)):
            if (i * dilation % stride, j * dilation % stride) == (down, right):
                further = i * dilation // stride * width + j * dilation // stride
                torch.mm(slopes[: len(slopes) - further].T, pixels[further:], out=result[i, j])
    return result.permute(2, 3, 0, 1)


def backward(
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution without padding by its input, its weight and its bias, as far as ``wanted``."""
    # A gradient that shall have a gradient itself is left to PyTorch.
    products = wanted[1] and not torch.is_grad_enabled() and pays(x, weight)
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        slope, x, weight, [len(weight)], stride, (0, 0), dilation, False, (0, 0), 1,
        (wanted[0], wanted[1] and not products, wanted[2]),
    )  # fmt: skip
    if products:
        of_weight = by_weight(x, slope, weight.shape[2:], stride[1], dilation[1])
    return of_x, of_weight, of_bias


class TransposedConv2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`, whose weight's gradient goes by :func:`by_weight` where that is faster."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H · stride, W · stride), with a fitting padding."""
        wanted = torch.is_grad_enabled() and self.weight.requires_grad and output_size is None
        if torch.compiler.is_compiling() or not (wanted and pays(x, self.weight)):
            return super().forward(x, output_size)
        return _TransposedConvolution.apply(self, x, self.weight, self.bias)


class _TransposedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, conv: TransposedConv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.conv = conv
        ctx.save_for_backward(x, weight)
        return F.conv_transpose2d(
            x, weight, bias, conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation
        )

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        conv, (x, weight), wanted = ctx.conv, ctx.saved_tensors, ctx.needs_input_grad[1:]
        products = wanted[1] and not torch.is_grad_enabled()  # else this gradient shall have a gradient
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            slope, x, weight, [conv.out_channels], conv.stride, conv.padding, conv.dilation, True,
            conv.output_padding, conv.groups, (wanted[0], wanted[1] and not products, wanted[2]),
        )  # fmt: skip
        if products:  # the input is to the output what the slope is to the input of a usual convolution
            rows, columns = conv.padding
            padded = F.pad(slope, (columns, columns, rows, rows))
            of_weight = by_weight(padded, x, conv.kernel_size, conv.stride[0], conv.dilation[0])
        return None, of_x, of_weight, of_bias
