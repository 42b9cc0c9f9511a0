"""Convolutions with weights ready for the processor: the parts that :mod:`lama_minimal.fast` is made of.

On a CPU, oneDNN adds bias, a second summand and the ReLU while the result is still in the cache, and weights are packed
once in the processor's order. Biases stay in float32 whatever the precision: a rounded one is wrong by the same amount
at every pixel, which does not average out in the layers that follow (trained networks: 33 instead of 52 dB PSNR).

Wide 3×3 convolutions also run with fewer multiplications, by the rules of :mod:`lama_minimal.winograd`; wide ones
with a stride as one product with a matrix, on processors where that is faster.

Shape letters: B batch, C channels, H × W pixels, n tiles of rows.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lama_minimal.gradients import only_avx2
from lama_minimal.winograd import FOUR_ROWS, TWO_ROWS, MinimalFiltering, empty

STRIP_POSITIONS = 2**12
"""Pixels of a strip in which :class:`WinogradBank` works: almost full speed, and little memory."""

LEAST_POSITIONS = 96
"""Positions, at least, that a kernel of :class:`WinogradBank` computes. For fewer (64 and less, as measured) some
processors want weights in another order than the packed one, and put them into it at every call: ten times as slow."""

LEAST_CHANNELS = {torch.float32: 64, torch.bfloat16: 128}
"""Fewest channels, of input and of output, with which :class:`WinogradBank` is faster; other precisions: never, and
never where multiplications are cheap (:func:`multiplies_tiles`)."""

LEAST_STRIDED_WEIGHTS = 2**15
"""Input times output channels from which :class:`WindowProduct` is faster, where it is (:func:`strides_slowly`)."""


def can_pack(weight: Tensor, precision: torch.dtype) -> bool:
    """Whether weights can be packed for the processor: on a CPU, by oneDNN, which also fuses what follows."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return precision == torch.float32 or (precision == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_tiles(precision: torch.dtype) -> bool:
    """Whether the processor multiplies whole tiles of matrices of this precision (Intel's AMX).

    Multiplications are then some eight times cheaper than float32's, and sums that save some of them cost more than
    they save.
    """
    return precision == torch.bfloat16 and torch.cpu._is_amx_tile_supported()


def strides_slowly(precision: torch.dtype) -> bool:
    """Whether wide convolutions with a stride are slow: in float32, with AVX2, but not AVX-512.

    How slow depends on the picture's width. With 256 × 512 channels, in strips of pictures of 256, 384, 512, 768, 1024
    and 2048 pixels, a convolution took 57, 23, 69, 25, 27 and 73 ms on an AMD EPYC (Zen 3), a product 17 to 28.
    """
    return precision == torch.float32 and only_avx2()


Size = tuple[int, ...]
"""The shape of a tensor."""


def pack(weight: Tensor, stride: int, dilation: int, size: Size | None) -> Tensor:
    """(C_out, C, k, l) weights in the processor's order, for pictures (B, C, H, W) of a size, or an average one."""
    return torch._C._nn.mkldnn_reorder_conv2d_weight(
        weight.contiguous().to_mkldnn(), [0, 0], [stride] * 2, [dilation] * 2, 1, size
    )


@lru_cache(maxsize=1024)
def order(shape: Size, precision: torch.dtype, stride: int, dilation: int, size: Size | None, threads: int) -> int:
    """A number that stands for the order of weights of a ``shape`` that :func:`pack` makes with so many threads.

    It says how packed random weights lie in memory, since PyTorch does not tell the order's name.
    """
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(precision)
    packed = pack(weight, stride, dilation, size)
    return hash(ctypes.string_at(torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed)))


class Kernel(nn.Module):
    """Weights ready for the processor: ``relu(conv(x) + add)``, without padding."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        precision: torch.dtype,
        relu: bool,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        """Pack the weights; ``relu`` says whether a ReLU follows."""
        super().__init__()
        self.relu = relu
        self.geometry = [stride] * 2, [0, 0], [dilation] * 2, 1  # stride, padding, dilation, groups
        self.packed = can_pack(weight, precision)
        self.bias = None if bias is None else nn.Buffer(bias.detach().float())
        weight = weight.detach().to(precision)
        if self.packed:  # no buffer: its layout is the processor's own
            self.weight = pack(weight, stride, dilation, None)
            self.packed_for, self.place, self.height = (None, torch.get_num_threads()), None, 0
        else:
            self.weight = nn.Buffer(weight.contiguous(memory_format=torch.channels_last))

    def fit(self, size: Size) -> None:
        """Put the weights into the order that is wanted for pictures of this size, if it is another one.

        Else oneDNN does so at every call, which can take ten times as long as the convolution: of 512 × 512 channels,
        for 8 × 32 pixels, on an AMD EPYC with AVX2. The last strip of a picture may be lower than the others; it has to
        do with their order. (With AVX-512 this was only seen for fewer than :data:`LEAST_POSITIONS`.)
        """
        (batch, _, height, width), threads = size, torch.get_num_threads()
        if self.place == (batch, width, threads) and height <= self.height:
            return
        self.place, self.height = (batch, width, threads), height
        (stride, _), _, (dilation, _), _ = self.geometry
        what = tuple(self.weight.shape), self.weight.dtype, stride, dilation
        if order(*what, size, threads) != order(*what, *self.packed_for):
            self.weight, self.packed_for = pack(self.weight.to_dense(), stride, dilation, size), (size, threads)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, h, w); ``add``, used up, has the output's shape."""
        if self.packed and only_avx2():
            self.fit(tuple(x.shape))
        if not self.packed:
            y = F.conv2d(x, self.weight, None, *self.geometry)
            y = y if self.bias is None else y.add_(self.bias[:, None, None])
            y = y if add is None else y.add_(add)
            return y.relu_() if self.relu else y
        stride, padding, dilation, groups = self.geometry
        pointwise, geometry = torch.ops.mkldnn._convolution_pointwise, (padding, stride, dilation, groups)
        if add is None:
            return pointwise(x, self.weight, self.bias, *geometry, "relu" if self.relu else "none", [], "")
        unary, bias = "relu" if self.relu else None, self.bias
        if bias is not None and x.dtype != bias.dtype:  # no float32 bias beside a summand in another precision
            add, bias = add.add_(bias[:, None, None]), None
        return pointwise.binary(x, add, self.weight, bias, *geometry, "add", 1.0, unary, [], "")


class Linear(nn.Module):
    """A 1×1 convolution with channels innermost, a product with a matrix: ``relu(x · weightᵀ + bias)``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: torch.dtype, relu: bool) -> None:
        """Take over the (C_out, C, 1, 1) weight; ``relu`` says whether a ReLU follows."""
        super().__init__()
        self.relu = "relu" if relu else "none"
        self.bias = None if bias is None else nn.Buffer(bias.detach().float())
        weight = weight.detach()[:, :, 0, 0].to(precision).contiguous()
        self.packed = can_pack(weight, precision)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self.weight = nn.Buffer(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, C) to (…, C_out)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.relu, [], "")
        y = F.linear(x, self.weight)
        y = y if self.bias is None else y.add_(self.bias)
        return y.relu_() if self.relu == "relu" else y


class WindowProduct(nn.Module):
    """A convolution as one product with a matrix: the pixels under the kernel are copied side by side ("im2col")."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: torch.dtype, relu: bool, stride: int) -> None:
        """Take over the (C_out, C, k, k) weight; ``relu`` says whether a ReLU follows."""
        super().__init__()
        self.side, self.stride = weight.shape[2], stride
        self.product = Linear(weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None], bias, precision, relu)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), channels innermost, to (B, C_out, h, w); without padding."""
        windows = x.permute(0, 2, 3, 1).unfold(1, self.side, self.stride).unfold(2, self.side, self.stride)
        return self.product(windows.permute(0, 1, 2, 4, 5, 3).flatten(3)).permute(0, 3, 1, 2)


def make_kernel(
    weight: Tensor, bias: Tensor | None, precision: torch.dtype, relu: bool, stride: int, dilation: int
) -> nn.Module:
    """The faster of :class:`Kernel` and :class:`WindowProduct` for a convolution; arguments as there."""
    wide = weight.shape[0] * weight.shape[1] >= LEAST_STRIDED_WEIGHTS
    if wide and stride > 1 and dilation == 1 and strides_slowly(precision) and can_pack(weight, precision):
        return WindowProduct(weight, bias, precision, relu, stride)
    return Kernel(weight, bias, precision, relu, stride, dilation)


# -------------------------------------------------------------------------------------- several inputs, several outputs

WeightedPath = tuple[int, int, Tensor]
"""From which input, into which output, and the folded (C_out, C, 3, 3) weight."""


class Bank(nn.Module):
    """3×3 convolutions, mirrored at the border, from several inputs into several outputs.

    ``y_j = relu(Σ_i conv_ij(x_i) + shift_j + add_j)``
    """

    def __init__(
        self, paths: Sequence[WeightedPath], shifts: Sequence[Tensor | None], precision: torch.dtype, relu: bool
    ) -> None:
        """Pack the weights.

        Args:
            paths: those from one input together, so that it gets its border once.
            shifts: (C_j,) of each output; ``None`` where another summand brings it.
            precision: of the weights.
            relu: whether a ReLU follows.
        """
        super().__init__()
        self.precision, self.relu = precision, relu
        self.ends = [(source, target) for source, target, _ in paths]
        self.channels = {target: len(weight) for _, target, weight in paths}
        self.kernels = nn.ModuleList()
        targets = [target for _, target in self.ends]
        for index, (_, target, weight) in enumerate(paths):
            shift = shifts[target] if target not in targets[:index] else None  # comes with the first path of an output
            last = target not in targets[index + 1 :]
            self.kernels.append(self.pack(weight, shift, relu and last))

    def pack(self, weight: Tensor, shift: Tensor | None, relu: bool) -> nn.Module:
        """One path's weights, ready."""
        return Kernel(weight, shift, self.precision, relu)

    def forward(self, inputs: Sequence[Tensor | None], adds: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Map inputs (B, C_i, H, W) to outputs (B, C_j, H, W).

        Args:
            inputs: ``None`` where no path begins.
            adds: a further summand of each output, used up, or ``None``. Where no path ends, it is the output.
        """
        outputs, padded, at = list(adds), None, None
        for (source, target), kernel in zip(self.ends, self.kernels, strict=True):
            if source != at:
                padded, at = None, source  # one padded input at a time
                padded = F.pad(inputs[source], (1, 1, 1, 1), mode="reflect")
            outputs[target] = kernel(padded, outputs[target])
        return outputs


class WinogradBank(Bank):
    """The same with half the multiplications, in bfloat16 with two thirds of them. On a CPU."""

    @property
    def rule(self) -> MinimalFiltering:
        """How many rows at once, and how."""
        return FOUR_ROWS if self.precision == torch.float32 else TWO_ROWS

    def pack(self, weight: Tensor, shift: Tensor | None, relu: bool) -> nn.Module:
        """One path's kernels of 1×3. The shift goes with the point 1, whose result enters each output row once."""
        return nn.ModuleList(
            Kernel(each, shift if point == 1 else None, self.precision, relu=False)
            for point, each in enumerate(self.rule.kernels(weight.double()))
        )

    def forward(self, inputs: Sequence[Tensor | None], adds: Sequence[Tensor | None]) -> list[Tensor | None]:
        """As for every bank, in strips of rows: what the sums need then stays in the cache."""
        x, rows = inputs[self.ends[0][0]], self.rule.rows
        batch, _, height, width = x.shape
        outputs = list(adds)  # what there is to add is replaced by the output: one large tensor less
        for target, channels in self.channels.items():
            if adds[target] is None:
                outputs[target] = empty(x, batch, channels, height, width)
        tiles = -(-height // rows)
        strips = -(-tiles // max(1, STRIP_POSITIONS // (batch * width * rows)))
        bounds = [-(-tiles * index // strips) * rows for index in range(strips)]
        for first, last in pairwise([*bounds, height]):  # as high as one another, so that one order of weights suits
            self.strip(inputs, adds, outputs, first, last)
        return outputs

    def strip(self, inputs: Sequence[Tensor | None], adds: Sequence, outputs: Sequence, first: int, last: int) -> None:
        """Write the outputs' rows from ``first`` to before ``last``."""
        for target, sums in self.convolve(inputs, first, last).items():
            y, out = self.rule.join(sums)[:, :, : last - first], outputs[target][:, :, first:last]
            y = y if adds[target] is None else y.add_(out)
            torch.clamp(y, min=0, out=out) if self.relu else out.copy_(y)

    def convolve(self, inputs: Sequence[Tensor | None], first: int, last: int) -> dict[int, list[Tensor]]:
        """What each output's rows from ``first`` to before ``last`` are sums of: lists of (B, C_j, n, W)."""
        results, at = {}, None
        for (source, target), kernels in zip(self.ends, self.kernels, strict=True):
            if source != at:
                sums, at = self.rule.split(self.window(inputs[source], first, last)), source
            before = results.get(target, [None] * len(sums))
            results[target] = [kernel(x, add) for kernel, x, add in zip(kernels, sums, before, strict=True)]
        return results

    def window(self, x: Tensor, first: int, last: int) -> Tensor:
        """The rows under the kernels for the wanted ones, with the border, (B, C, rows · n + 2, W + 2); zeros below."""
        top, bottom = int(first == 0), int(last == x.shape[2])
        strip = F.pad(x[:, :, first - 1 + top : last + 1 - bottom], (1, 1, top, bottom), mode="reflect")
        rows = self.rule.rows
        tiles = max(-(-(last - first) // rows), -(-LEAST_POSITIONS // x.shape[3]))
        missing = tiles * rows - (last - first)
        return F.pad(strip, (0, 0, 0, missing)) if missing else strip


def make_bank(
    paths: Sequence[WeightedPath], shifts: Sequence[Tensor | None], precision: torch.dtype, relu: bool
) -> Bank:
    """The fastest :class:`Bank` for the weights' device, size and precision; arguments as there."""
    least = LEAST_CHANNELS.get(precision, float("inf"))
    wide = [can_pack(weight, precision) and min(weight.shape[:2]) >= least for *_, weight in paths]
    sums_pay = bool(wide) and all(wide) and not multiplies_tiles(precision)
    return (WinogradBank if sums_pay else Bank)(paths, shifts, precision, relu)
