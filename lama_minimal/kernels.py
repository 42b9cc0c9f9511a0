"""Convolutions with weights ready for the processor: the parts that :mod:`lama_minimal.fast` is made of.

On a CPU, oneDNN adds bias, a second summand and the ReLU while the result is still in the cache, and weights are packed
once in the processor's order. 3×3 convolutions also run with half the multiplications: Winograd's minimal filtering
F(4, 3) (Winograd 1980; Lavin and Gray, CVPR 2016, Section 4), along the height of the picture only. Six rows of the
input become six sums of rows, each goes through a 1×3 convolution of its own, and sums of the six results are four rows
of the output: 6 · 3 multiplications instead of 4 · 9. Sums of whole rows cost little.

Shape letters: B batch, C channels, H × W pixels, n groups of rows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIP_POSITIONS = 2**12
"""Pixels of a strip in which :class:`WinogradBank` works: enough for full speed, few enough to cost no memory."""

LEAST_CHANNELS = {torch.float32: 64, torch.bfloat16: 128}
"""With fewer, the sums of :class:`WinogradBank` cost more than the multiplications that it saves."""


def can_pack(weight: Tensor) -> bool:
    """Whether weights can be packed for the processor: on a CPU, by oneDNN, which also fuses what follows."""
    return weight.device.type == "cpu" and torch.backends.mkldnn.is_available()


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
        self.place = [stride] * 2, [0, 0], [dilation] * 2, 1  # stride, padding, dilation, groups
        self.packed = can_pack(weight)
        self.bias = None if bias is None else nn.Buffer(bias.detach().to(precision))
        weight = weight.detach().to(precision).contiguous()
        if self.packed:  # no buffer: its layout is the processor's own
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
                weight.to_mkldnn(), [0, 0], [stride] * 2, [dilation] * 2, 1
            )
        else:
            self.weight = nn.Buffer(weight.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, h, w); ``add`` has the output's shape."""
        if not self.packed:
            y = F.conv2d(x, self.weight, self.bias, *self.place)
            y = y if add is None else y.add_(add)
            return y.relu_() if self.relu else y
        stride, padding, dilation, groups = self.place
        pointwise, place = torch.ops.mkldnn._convolution_pointwise, (padding, stride, dilation, groups)
        if add is None:
            return pointwise(x, self.weight, self.bias, *place, "relu" if self.relu else "none", [], "")
        unary = "relu" if self.relu else None
        return pointwise.binary(x, add, self.weight, self.bias, *place, "add", 1.0, unary, [], "")


class Linear(nn.Module):
    """A 1×1 convolution with channels innermost, a product with a matrix: ``relu(x · weightᵀ + bias)``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: torch.dtype, relu: bool) -> None:
        """Take over the (C_out, C, 1, 1) weight; ``relu`` says whether a ReLU follows."""
        super().__init__()
        self.relu = "relu" if relu else "none"
        self.bias = None if bias is None else nn.Buffer(bias.detach().to(precision))
        weight = weight.detach()[:, :, 0, 0].to(precision).contiguous()
        self.packed = can_pack(weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self.weight = nn.Buffer(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, C) to (…, C_out)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.relu, [], "")
        y = F.linear(x, self.weight, self.bias)
        return y.relu_() if self.relu == "relu" else y


# -------------------------------------------------------------------------------------- several inputs, several outputs

Path = tuple[int, int, Tensor]
"""From which input, into which output, and the folded (C_out, C, 3, 3) weight."""


class Bank(nn.Module):
    """3×3 convolutions from several inputs into several outputs: ``y_j = relu(Σ_i conv_ij(x_i) + shift_j + add_j)``."""

    def __init__(
        self,
        paths: Sequence[Path],
        shifts: Sequence[Tensor | None],
        precision: torch.dtype,
        relu: bool,
        mode: str,
        dilation: int = 1,
    ) -> None:
        """Pack the weights.

        Args:
            paths: ordered by input.
            shifts: (C_j,) of each output; ``None`` where another summand brings it.
            precision: of the weights.
            relu: whether a ReLU follows.
            mode: of the border, as in :func:`torch.nn.functional.pad`.
            dilation: of all kernels, pixels.
        """
        super().__init__()
        self.relu, self.mode, self.dilation = relu, mode, dilation
        self.places = [(source, target) for source, target, _ in paths]
        targets = [target for _, target in self.places]
        self.channels = [next((len(weight) for _, to, weight in paths if to == j), 0) for j in range(len(shifts))]
        self.kernels = nn.ModuleList()
        for index, (_, target, weight) in enumerate(paths):
            shift = shifts[target] if target not in targets[:index] else None  # comes with the first path of an output
            last = target not in targets[index + 1 :]
            self.kernels.append(self.pack(weight, shift, precision, relu and last))

    def pack(self, weight: Tensor, shift: Tensor | None, precision: torch.dtype, relu: bool) -> nn.Module:
        """One path's weights, ready."""
        return Kernel(weight, shift, precision, relu, dilation=self.dilation)

    def forward(self, inputs: Sequence[Tensor | None], adds: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Map inputs (B, C_i, H, W) to outputs (B, C_j, H, W).

        Args:
            inputs: ``None`` where no path begins.
            adds: what else goes into each output, of the output's shape. An output without a path is its ``add``.
        """
        outputs, padded, at = list(adds), None, None
        for (source, target), kernel in zip(self.places, self.kernels, strict=True):
            if source != at:
                padded, at = None, source  # one padded input at a time
                padded = F.pad(inputs[source], (self.dilation,) * 4, mode=self.mode)
            outputs[target] = kernel(padded, outputs[target])
        return outputs


class WinogradBank(Bank):
    """The same with half the multiplications, or in bfloat16 two thirds. On a CPU, without dilation."""

    def pack(self, weight: Tensor, shift: Tensor | None, precision: torch.dtype, relu: bool) -> nn.Module:
        """One path's kernels of 1×3. What the point 1 adds arrives in each row of the output: there the shift."""
        self.rule = FOUR_ROWS if precision == torch.float32 else TWO_ROWS
        filters = torch.tensor(self.rule.filters, dtype=torch.float64)
        weights = torch.einsum("pr,ocrw->pocw", filters, weight.double()).to(precision).unsqueeze(3)
        return nn.ModuleList(
            Kernel(each, shift if point == 1 else None, precision, relu=False) for point, each in enumerate(weights)
        )

    def forward(self, inputs: Sequence[Tensor | None], adds: Sequence[Tensor | None]) -> list[Tensor | None]:
        """As for every bank, in strips of rows: what the sums need then stays in the cache."""
        if not self.places:
            return list(adds)
        x, rows = inputs[self.places[0][0]], self.rule.rows
        batch, _, height, width = x.shape
        outputs = list(adds)
        for target, channels in enumerate(self.channels):
            if channels:
                shape = batch, channels, -(-height // rows) * rows, width
                outputs[target] = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        step = max(rows, STRIP_POSITIONS // (batch * width) // rows * rows)
        for first in range(0, height, step):
            self.strip(inputs, adds, outputs, first, min(first + step, height))
        for target, channels in enumerate(self.channels):
            if channels:
                outputs[target] = outputs[target][:, :, :height].contiguous(memory_format=torch.channels_last)
        return outputs

    def strip(self, inputs: Sequence[Tensor | None], adds: Sequence, outputs: Sequence, first: int, last: int) -> None:
        """Write the outputs' rows from ``first`` to before ``last``."""
        for target, sums in self.convolve(inputs, first, last).items():
            self.rule.join(sums, outputs[target][:, :, first : first + self.rule.rows * sums[0].shape[2]])
            y = outputs[target][:, :, first:last]
            if adds[target] is not None:
                y.add_(adds[target][:, :, first:last])
            if self.relu:
                y.relu_()

    def convolve(self, inputs: Sequence[Tensor | None], first: int, last: int) -> dict[int, list[Tensor]]:
        """What each output's rows from ``first`` to before ``last`` are sums of: lists of (B, C_j, n, W)."""
        results, at = {}, None
        for (source, target), kernels in zip(self.places, self.kernels, strict=True):
            if source != at:
                sums, at = self.rule.split(self.window(inputs[source], first, last)), source
            before = results.get(target, [None] * len(sums))
            results[target] = [kernel(x, add) for kernel, x, add in zip(kernels, sums, before, strict=True)]
        return results

    def window(self, x: Tensor, first: int, last: int) -> Tensor:
        """The rows under the kernels for the wanted ones, with the border, (B, C, rows · n + 2, W + 2)."""
        top, bottom = int(first == 0), int(last == x.shape[2])
        strip = F.pad(x[:, :, first - 1 + top : last + 1 - bottom], (1, 1, top, bottom), mode=self.mode)
        missing = (first - last) % self.rule.rows
        return F.pad(strip, (0, 0, 0, missing)) if missing else strip


def split_four(x: Tensor) -> list[Tensor]:
    """(B, C, 4n + 2, W): four rows and their neighbours above and below → six sums of rows, (B, C, n, W)."""
    row = [x[:, :, place : x.shape[2] - 5 + place : 4] for place in range(6)]
    even, odd = torch.add(row[4], row[2], alpha=-4), torch.add(row[3], row[1], alpha=-4)
    even_2, odd_2 = row[4] - row[2], row[3] - row[1]
    return [
        torch.add(row[4], row[2], alpha=-5).add_(row[0], alpha=4),
        even + odd,
        even.sub_(odd),
        torch.add(even_2, odd_2, alpha=2),
        even_2.sub_(odd_2, alpha=2),
        torch.add(row[5], row[3], alpha=-5).add_(row[1], alpha=4),
    ]


def join_four(sums: Sequence[Tensor], out: Tensor) -> None:
    """Six results (B, C, n, W), used up, → ``out`` (B, C, 4n, W)."""
    zero, one, minus_one, two, minus_two, infinity = sums
    even, odd = one + minus_one, one.sub_(minus_one)
    even_2, odd_2 = two + minus_two, two.sub_(minus_two)
    torch.add(odd, odd_2, alpha=2, out=out[:, :, 1::4])
    torch.add(even, even_2, alpha=4, out=out[:, :, 2::4])
    torch.add(zero, even.add_(even_2), out=out[:, :, 0::4])
    torch.add(infinity, odd.add_(odd_2, alpha=8), out=out[:, :, 3::4])


def split_two(x: Tensor) -> list[Tensor]:
    """(B, C, 2n + 2, W): two rows and their neighbours above and below → four sums of rows, (B, C, n, W)."""
    row = [x[:, :, place : x.shape[2] - 3 + place : 2] for place in range(4)]
    return [row[0] - row[2], row[1] + row[2], row[2] - row[1], row[3] - row[1]]


def join_two(sums: Sequence[Tensor], out: Tensor) -> None:
    """Four results (B, C, n, W), used up, → ``out`` (B, C, 2n, W)."""
    zero, one, minus_one, infinity = sums
    torch.add(zero.add_(one), minus_one, out=out[:, :, 0::2])
    torch.add(one.sub_(minus_one), infinity, out=out[:, :, 1::2])


class MinimalFiltering(NamedTuple):
    """A rule F(rows, 3): rows of the output by ``join`` of convolutions of ``split``, with ``filters`` of a kernel."""

    rows: int
    filters: tuple[tuple[float, float, float], ...]
    """A kernel's three rows → one row for each point: values of a polynomial at 0, 1, -1, (2, -2) and infinity."""
    split: Callable[[Tensor], list[Tensor]]
    join: Callable[[Sequence[Tensor], Tensor], None]


TWO_ROWS = MinimalFiltering(
    2, ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)), split_two, join_two
)
"""F(2, 3): all it adds are rows themselves, which bfloat16 can bear."""
FOUR_ROWS = MinimalFiltering(
    4,
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    split_four,
    join_four,
)
"""F(4, 3): errors some five times those of adding up products as they are, in float32 still below 1e-5."""


def make_bank(
    paths: Sequence[Path],
    shifts: Sequence[Tensor | None],
    precision: torch.dtype,
    relu: bool,
    mode: str,
    dilation: int = 1,
) -> Bank:
    """The fastest :class:`Bank` for the weights' device and precision; arguments as there."""
    least = LEAST_CHANNELS.get(precision, float("inf"))
    wide = all(can_pack(weight) and min(weight.shape[:2]) >= least for *_, weight in paths)
    return (WinogradBank if wide and dilation == 1 else Bank)(paths, shifts, precision, relu, mode, dilation)
