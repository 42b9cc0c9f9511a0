"""Products of matrices give the gradients that PyTorch's own sums give; where they are used, and where not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lama_minimal import gradients
from lama_minimal.fourier import PaddedConv2d, ReflectConv2d
from lama_minimal.gradients import TransposedConv2d
from lama_minimal.models import FourierGenerator, ResidualGenerator


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture
def everywhere(monkeypatch):
    """Products on any processor, in any precision, for any number of channels; the kernels they were made for."""
    used, by_weight = [], gradients.by_weight

    def counted(x, slope, kernel, *rest):
        used.append(tuple(kernel))
        return by_weight(x, slope, kernel, *rest)

    monkeypatch.setattr(gradients, "pays", lambda _, weight: weight[0, 0].numel() > 1)
    monkeypatch.setattr(gradients, "by_weight", counted)
    return used


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("height, width", [(9, 9), (10, 12), (11, 16)])
@pytest.mark.parametrize(
    "kernel, stride, dilation",
    [((3, 3), 1, 1), ((1, 3), 1, 1), ((3, 3), 2, 1), ((4, 4), 2, 1), ((3, 3), 1, 3), ((1, 3), 1, 2), ((2, 5), 3, 1)],
)
def test_the_gradient_of_a_plain_convolution(kernel, stride, dilation, height, width, layout):
    """Also where the last rows and columns of the input are under no kernel, or under no whole stride."""
    x, weight = draw(2, 3, height, width).to(memory_format=layout), draw(5, 3, *kernel).requires_grad_()
    y = F.conv2d(x, weight, stride=stride, dilation=dilation)
    slope = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, slope)
    assert torch.allclose(gradients.by_weight(x, slope, kernel, stride, dilation), expected)


LAYERS = {
    "mirrored": lambda: ReflectConv2d(3, 4, 3),
    "mirrored, stride": lambda: ReflectConv2d(3, 4, 3, stride=2),
    "mirrored, dilation": lambda: ReflectConv2d(3, 4, 3, dilation=2),
    "zeros, stride": lambda: PaddedConv2d(3, 4, 3, stride=2, padding=1),
    "no bias": lambda: ReflectConv2d(3, 4, 5, bias=False),
    "transposed": lambda: TransposedConv2d(3, 4, 3, stride=2, padding=1, output_padding=1),
    "transposed, no bias": lambda: TransposedConv2d(3, 4, 3, stride=2, padding=1, output_padding=1, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("by_input", [True, False])
def test_layers_have_the_gradients_of_pytorchs_own(name, by_input, everywhere, monkeypatch):
    layer, x = LAYERS[name]().double(), draw(2, 3, 8, 12).requires_grad_(by_input)
    wanted = [*([x] if by_input else []), *layer.parameters()]
    y = layer(x)
    slope = torch.randn_like(y)
    found = torch.autograd.grad(y, wanted, slope)
    assert everywhere
    monkeypatch.setattr(gradients, "pays", lambda *_: False)
    plain = layer(x)
    assert torch.equal(plain, y)
    expected = torch.autograd.grad(plain, wanted, slope)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["mirrored, stride", "zeros, stride", "transposed"])
def test_gradients_of_gradients(name, everywhere):
    """Against differences; a gradient that shall have a gradient itself is left to PyTorch."""
    layer, x = LAYERS[name]().double(), draw(1, 3, 4, 4).requires_grad_()

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    parameters = [p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(run, [x, *parameters])
    assert everywhere
    assert torch.autograd.gradgradcheck(run, [x, *parameters])


@pytest.mark.parametrize("make", [lambda: FourierGenerator(8, 1), lambda: ResidualGenerator(8, 1)])
def test_a_generator_trains_by_products(make, everywhere, monkeypatch):
    """All convolutions of the encoder, the trunk and the decoder, with the same gradients."""
    generator, x = make().double(), draw(1, 4, 32, 32)
    slope = draw(1, 3, 32, 32)
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # before the sigmoid
    parameters = list(generator.parameters())
    found = torch.autograd.grad(generator(x), parameters, slope)
    assert len(everywhere) == sum(weight.ndim == 4 and weight[0, 0].numel() > 1 for weight in parameters)
    monkeypatch.setattr(gradients, "pays", lambda *_: False)
    expected = torch.autograd.grad(generator(x), parameters, slope)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({}, True),
        ({"capability": "AVX512"}, False),
        ({"capability": "DEFAULT"}, False),
        ({"channels": (63, 64)}, False),
        ({"channels": (64, 63)}, False),
        ({"kernel": (1, 1)}, False),
        ({"kernel": (1, 3)}, True),
        ({"dtype": torch.bfloat16}, False),
        ({"layout": torch.contiguous_format}, False),
        ({"device": "meta"}, False),
        ({"autocast": True}, False),
    ],
)
def test_where_products_are_used(change, wanted, monkeypatch):
    case = dict(
        capability="AVX2", channels=(64, 64), kernel=(3, 3), dtype=torch.float32, layout=torch.channels_last,
        device="cpu", autocast=False,
    ) | change  # fmt: skip
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: case["capability"])
    x = torch.zeros(1, case["channels"][0], 8, 8, dtype=case["dtype"], device=case["device"])
    weight = nn.Parameter(torch.zeros(*case["channels"], *case["kernel"], dtype=case["dtype"], device=case["device"]))
    with torch.autocast("cpu", enabled=case["autocast"]):
        assert gradients.pays(x.to(memory_format=case["layout"]), weight) == wanted


def test_frozen_weights_and_filling_take_pytorchs_way(everywhere):
    layers = [PaddedConv2d(4, 4, 3, stride=2, padding=1), TransposedConv2d(4, 4, 3, stride=2)]
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    for layer in layers:
        with torch.no_grad():
            layer(x)
        layer.requires_grad_(False)(x).sum().backward()
    assert not everywhere and x.grad is not None
