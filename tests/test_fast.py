"""The fast form computes what the generator computes: for every kind, size and strip, in less memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lama_minimal import fast, gradients, kernels
from lama_minimal.checkpoint import load_generator
from lama_minimal.evaluate import photographs
from lama_minimal.fast import FastGenerator
from lama_minimal.models import FourierGenerator, ResidualGenerator, generator_input

GENERATORS = {
    "fourier": lambda: FourierGenerator(8, 2),
    "two downsamplings, lfu": lambda: FourierGenerator(8, 2, downsamplings=2, lfu=True),
    "local only": lambda: FourierGenerator(8, 1, global_ratio=0.0),
    "global only": lambda: FourierGenerator(8, 1, global_ratio=1.0),
    "regular": lambda: ResidualGenerator(8, 2),
    "one dilation": lambda: ResidualGenerator(8, 2, dilations=(2,)),
    "dilated": lambda: ResidualGenerator(8, 2, dilations=(1, 2, 4, 8)),
}


def trained_looking(generator: nn.Module) -> nn.Module:
    """Statistics and shifts of BatchNorm that matter, and an output in the middle of the sigmoid."""
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        generator.eval().decoder[-1].weight.mul_(0.1)
        reply = generator(torch.rand(1, 4, 96, 96, generator=torch.Generator().manual_seed(5)))
    generator.decoder[-1].weight.data.mul_(0.1 / reply.std())
    return generator


ONEDNN = [name for name in ("float32", "bfloat16") if kernels.can_pack(torch.zeros(1), getattr(torch, name))]
needs_bfloat16 = pytest.mark.skipif(
    "bfloat16" not in ONEDNN, reason="PyTorch's own bfloat16 on a CPU, which nobody gets without asking, loses more"
)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without oneDNN all is plain")


@pytest.fixture(
    params=["plain", pytest.param("direct", marks=needs_onednn), pytest.param("winograd", marks=needs_onednn)]
)
def algorithm(request, monkeypatch):
    """PyTorch's own operations, as on a GPU; packed convolutions, for cheap multiplications; with fewer of them, and
    with products instead of strides."""
    if request.param == "plain":
        monkeypatch.setattr(kernels, "can_pack", lambda *_: False)
        monkeypatch.setattr(fast, "MATRIX_SIDES", 0)
    least = 1 if request.param == "winograd" else 10**6
    monkeypatch.setattr(kernels, "LEAST_CHANNELS", dict.fromkeys(kernels.LEAST_CHANNELS, least))
    monkeypatch.setattr(kernels, "LEAST_STRIDED_WEIGHTS", 1)
    monkeypatch.setattr(
        kernels, "strides_slowly", lambda precision: (request.param, precision) == ("winograd", torch.float32)
    )
    for module in (kernels, fast):
        monkeypatch.setattr(module, "multiplies_tiles", lambda _: request.param == "direct")
    return request.param


@pytest.fixture(params=GENERATORS)
def generator(request, algorithm):
    torch.manual_seed(3)
    return trained_looking(GENERATORS[request.param]())


@pytest.mark.parametrize("size", [(96, 96), (72, 136)])
@pytest.mark.parametrize("strip_pixels", [1, 5000, 2**20])
def test_same_numbers_in_strips_of_any_height(generator, algorithm, size, strip_pixels, monkeypatch):
    monkeypatch.setattr(fast, "STRIP_PIXELS", strip_pixels)
    monkeypatch.setattr(kernels, "STRIP_POSITIONS", strip_pixels // 64)
    x = torch.rand(2, 4, *size)
    with torch.no_grad():
        expected = generator(x)
    assert expected.std() > 0.02
    network = FastGenerator(generator)
    assert any(isinstance(part, kernels.WindowProduct) for part in network.modules()) == (algorithm == "winograd")
    result = network(x)
    assert result.dtype == torch.float32 and result.shape == expected.shape
    assert (result - expected).abs().max() < 1e-5


def test_each_row_of_a_border_is_right(generator, monkeypatch):
    """One bright pixel in a corner: what is mirrored or wrapped wrongly shows at once."""
    monkeypatch.setattr(fast, "STRIP_PIXELS", 1)
    network = FastGenerator(generator)
    for row, column in [(0, 0), (0, 71), (71, 0), (71, 71), (1, 40), (70, 40)]:
        x = torch.zeros(1, 4, 72, 72)
        x[..., row, column] = 5.0
        with torch.no_grad():
            assert (network(x) - generator(x)).abs().max() < 1e-5


def test_the_generator_stays_as_it_is(generator):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    FastGenerator(generator, torch.bfloat16)(torch.rand(1, 4, 72, 72))
    after = generator.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(tensor.dtype != torch.bfloat16 for tensor in after.values())


def test_bfloat16_stays_close(generator):
    x = torch.rand(2, 4, 96, 96)
    with torch.no_grad():
        expected = generator(x)
    result = FastGenerator(generator, torch.bfloat16)(x)
    assert result.dtype == torch.float32
    error = (result - expected).square().mean().sqrt()
    assert 0 < error < 0.05 * expected.std()


@needs_bfloat16
@pytest.mark.parametrize("name", ["course", "course-regular"])
def test_trained_networks_bear_bfloat16(name):
    """PSNR of bfloat16 to float32 over photographs; with rounded biases it was 46 and 33 dB."""
    generator, errors = load_generator(name), []
    network = FastGenerator(generator, torch.bfloat16)
    for sample in photographs(256)[:3]:
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255
        x = generator_input(image, torch.from_numpy(sample.mask)[None, None].float())
        with torch.no_grad():
            errors.append((network(x).float() - generator(x)).square().mean())
    assert -10 * torch.stack(errors).log10().max() > 49


def test_large_feature_maps_never_exist_as_a_whole(monkeypatch):
    """The largest tensor made by encoder and decoder is a strip's, not the picture's."""
    torch.manual_seed(0)
    network = FastGenerator(trained_looking(FourierGenerator(8, 1)))
    monkeypatch.setattr(fast, "STRIP_PIXELS", 16 * 64)
    largest = 0

    def watch(module, inputs, output):
        nonlocal largest
        largest = max(largest, output.numel())

    for layer in [*network.encoder, *network.decoder]:
        layer.register_forward_hook(watch)
    network(torch.rand(1, 4, 512, 64))
    assert largest < 8 * 512 * 64 / 8  # an eighth of one feature map at full size


@pytest.mark.parametrize("matrix_sides", [0, 1000])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 2), (2, 1), (4, 4), (6, 9), (9, 6), (5, 7), (32, 20)])
def test_transforms_there_and_back(height, width, matrix_sides, monkeypatch):
    """Against NumPy in float64; the way back with a spectrum that is no picture's, as what a network mixes is none."""
    monkeypatch.setattr(fast, "MATRIX_SIDES", matrix_sides)
    monkeypatch.setattr(fast, "TRANSFORM_ELEMENTS", 4 * height * width)  # two of the three channels at once
    random = np.random.default_rng(height)
    x = random.normal(size=(2, height, width, 3))
    expected = np.fft.rfft2(x, axes=(1, 2), norm="ortho")
    result = fast.to_spectrum(torch.from_numpy(x).float())
    assert np.abs(result.numpy() - np.concatenate([expected.real, expected.imag], axis=3)).max() < 1e-5

    waves = random.normal(size=(2, *expected.shape)).transpose(1, 2, 3, 0, 4)
    given = torch.from_numpy(waves).flatten(3).float()
    expected = x + np.fft.irfft2(waves[..., 0, :] + 1j * waves[..., 1, :], (height, width), (1, 2), norm="ortho")
    assert np.abs(fast.add_from_spectrum(torch.from_numpy(x).float(), given).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("height, width", [(2, 2), (3, 9), (4, 5), (7, 6), (16, 8), (33, 4)])
@pytest.mark.parametrize("precision, error", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("relu", [True, False])
def test_a_bank_of_convolutions(algorithm, height, width, precision, error, relu, monkeypatch):
    """Two inputs, two outputs and one that is only handed on, against PyTorch's convolution in float64."""
    monkeypatch.setattr(kernels, "STRIP_POSITIONS", 40)
    random = torch.Generator().manual_seed(height)
    inputs = [torch.randn(2, channels, height, width, generator=random).double() for channels in (5, 3)]
    added, handed_on = (torch.randn(2, channels, height, width, generator=random).double() for channels in (4, 2))
    weights = {place: torch.randn(*size, 3, 3, generator=random) / 7 for place, size in
               {(0, 0): (6, 5), (0, 1): (4, 5), (1, 0): (6, 3)}.items()}  # fmt: skip
    shift = torch.randn(6, generator=random)
    padded = [torch.nn.functional.pad(x, (1, 1, 1, 1), "reflect") for x in inputs]
    sums = [torch.nn.functional.conv2d(padded[0], weights[0, target].double()) for target in (0, 1)]
    sums[0] += torch.nn.functional.conv2d(padded[1], weights[1, 0].double()) + shift[:, None, None]
    sums[1] += added
    expected = [each.relu() if relu else each for each in sums]

    paths = [(*place, weight) for place, weight in weights.items()]
    bank = kernels.make_bank(paths, [shift, None, None], precision, relu)
    with torch.no_grad():
        given = [x.to(precision, memory_format=torch.channels_last) for x in (*inputs, added, handed_on)]
        results = bank(given[:2], [None, given[2], given[3]])
    assert results[2] is given[3]
    for result, wanted in zip(results[:2], expected, strict=True):
        assert result.dtype == precision and result.is_contiguous(memory_format=torch.channels_last)
        assert (result.double() - wanted).square().mean().sqrt() < error * wanted.std()
    for x, y in zip([*given[:2], given[3]], [*inputs, handed_on], strict=True):
        assert torch.equal(x, y.to(precision))  # what was given is as it was, but for the summand, which is used up


@pytest.mark.parametrize("precision", ONEDNN)
def test_wide_convolutions_multiply_less(precision, monkeypatch):
    """Half the multiplications in float32, two thirds in bfloat16, counted in the weights of all kernels."""
    monkeypatch.setattr(kernels, "multiplies_tiles", lambda _: False)
    share = {"float32": 6 * 3 / (4 * 9), "bfloat16": 4 * 3 / (2 * 9)}[precision]
    bank = kernels.make_bank([(0, 0, torch.zeros(128, 128, 3, 3))], [None], getattr(torch, precision), False)
    rows = bank.rule.rows
    taken = sum(kernel.weight.numel() for group in bank.kernels for kernel in group) / rows
    assert taken == share * 9 * 128 * 128


@needs_onednn
@pytest.mark.parametrize(
    "sizes, precision, wanted",
    [
        ([(64, 64)], torch.float32, "WinogradBank"),
        ([(63, 64)], torch.float32, "Bank"),
        ([(64, 63)], torch.float32, "Bank"),
        ([(64, 64), (64, 8)], torch.float32, "Bank"),
        pytest.param([(127, 128)], torch.bfloat16, "Bank", marks=needs_bfloat16),
        pytest.param([(128, 128)], torch.bfloat16, "WinogradBank", marks=needs_bfloat16),
    ],
)
def test_only_wide_convolutions_take_the_trouble(sizes, precision, wanted, monkeypatch):
    def kind() -> str:
        paths = [(index, 0, torch.zeros(*size, 3, 3)) for index, size in enumerate(sizes)]
        return type(kernels.make_bank(paths, [None], precision, False)).__name__

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert kind() == wanted
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)  # there, multiplications are cheap
    assert kind() == (wanted if precision == torch.float32 else "Bank")
    monkeypatch.setattr(kernels, "can_pack", lambda *_: False)
    assert kind() == "Bank"


@needs_onednn
def test_a_wide_bank_works_in_strips(monkeypatch):
    monkeypatch.setattr(kernels, "STRIP_POSITIONS", 128)
    bank = kernels.make_bank([(0, 0, torch.zeros(64, 64, 3, 3))], [None], torch.float32, False)
    heights, convolve = [], bank.convolve
    monkeypatch.setattr(
        bank, "convolve", lambda x, first, last: heights.append(last - first) or convolve(x, first, last)
    )
    with torch.no_grad():
        bank([torch.zeros(2, 64, 64, 8)], [None])
    assert heights == [8] * 8  # rows of 2 · 8 pixels


@needs_onednn
@pytest.mark.parametrize("height, width", [(8, 8), (2, 40), (70, 24)])
def test_no_kernel_of_a_wide_bank_computes_few_positions(height, width, monkeypatch):
    """Not for a small picture, nor for the last strip of a large one."""
    monkeypatch.setattr(kernels, "STRIP_POSITIONS", 1024)
    bank = kernels.make_bank([(0, 0, torch.zeros(64, 64, 3, 3))], [None], torch.float32, False)
    positions = []
    for kernel in (kernel for group in bank.kernels for kernel in group):
        kernel.register_forward_hook(lambda _, given, result: positions.append(result[0, 0].numel()))
    with torch.no_grad():
        (result,) = bank([torch.zeros(1, 64, height, width)], [None])
    assert result.shape == (1, 64, height, width)
    assert positions and min(positions) >= kernels.LEAST_POSITIONS


@needs_onednn
@pytest.mark.parametrize("height, strips", [(64, [32, 32]), (36, [36]), (52, [28, 24]), (75, [40, 35])])
def test_strips_are_as_high_as_one_another(height, strips, monkeypatch):
    """Whole tiles of four rows, but for the picture's last; no strip has just the few rows that are left over."""
    monkeypatch.setattr(kernels, "STRIP_POSITIONS", 40 * 8)
    bank = kernels.make_bank([(0, 0, torch.zeros(64, 64, 3, 3))], [None], torch.float32, False)
    heights = []
    monkeypatch.setattr(bank, "strip", lambda _inputs, _adds, _outputs, first, last: heights.append(last - first))
    with torch.no_grad():
        bank([torch.zeros(1, 64, height, 8)], [None])
    assert heights == strips


COUNT_REORDERED = """
import torch
from lama_minimal.fast import FastGenerator
from lama_minimal.models import FourierGenerator, ResidualGenerator
torch.set_num_threads(2)
for generator in (ResidualGenerator(64, 1), FourierGenerator(32, 1)):
    network = FastGenerator(generator.eval())
    for side in (256, 320, 256):
        x = torch.rand(1, 4, side, side)
        network(x)
        print("again", flush=True)
        network(x)
        print("done", flush=True)
"""


@needs_onednn
@pytest.mark.skipif(not gradients.only_avx2(), reason="elsewhere the usual order is kept")
def test_weights_stay_in_the_order_the_processor_wants():
    """oneDNN's own record of what it does says whether it puts packed weights into another order at every call.

    With 512 × 512 channels that took ten times as long as the convolutions, on a processor with AVX2.
    """
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", COUNT_REORDERED], env=environment, capture_output=True, text=True, check=True
    )
    again = [part.split("done")[0].splitlines() for part in run.stdout.split("again")[1:]]
    assert len(again) == 6
    for lines in again:
        done = [line.split(",") for line in lines if ",exec," in line]
        kinds = [fields[next(i for i, f in enumerate(fields) if f == "exec") + 2] for fields in done]
        assert kinds.count("convolution") > 10
        reordered = [",".join(f) for f, kind in zip(done, kinds, strict=True) if kind == "reorder"]
        assert not [line for line in reordered if "1x3," in line]  # kernels of minimal filtering


@pytest.mark.parametrize("precision", ONEDNN)
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_fitted_weights_are_the_same_weights(precision, stride, dilation, monkeypatch):
    """Whatever the sizes that came before; orders taken for different at every size, so that all are packed anew."""
    precision = getattr(torch, precision)
    orders = iter(range(1000))
    monkeypatch.setattr(kernels, "order", lambda *_: next(orders))
    monkeypatch.setattr(kernels, "only_avx2", lambda: True)
    weight, bias = torch.randn(48, 24, 3, 3), torch.randn(48)
    kernel = kernels.Kernel(weight, bias, precision, True, stride, dilation)
    sizes = [(1, 24, 9, 34), (1, 24, 40, 34), (1, 24, 7, 34), (2, 24, 12, 12), (1, 24, 9, 34)]
    packed = []
    for size in sizes:
        x = torch.randn(size).to(precision, memory_format=torch.channels_last)
        wanted = torch.conv2d(x.float(), weight.to(precision).float(), bias, stride, 0, dilation).relu()
        error = (kernel(x).float() - wanted).abs().max() / wanted.max()
        assert error < (1e-5 if precision == torch.float32 else 1e-2)
        packed.append(kernel.packed_for[0])
    assert packed == [sizes[0], sizes[1], sizes[1], sizes[3], sizes[4]]  # the third is a lower strip of a picture
