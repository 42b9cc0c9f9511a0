"""Minimal filtering gives what the plain convolution gives, and its gradients; where it is used, and where not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lama_minimal import winograd
from lama_minimal.checkpoint import load_generator
from lama_minimal.fourier import PaddedConv2d, ReflectConv2d
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture
def everywhere(monkeypatch):
    """Minimal filtering for small networks, too; says how often it was used, there and back."""
    used = []
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    for name in ("convolve", "convolve_backward"):
        plain = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *given, n=name, f=plain: used.append(n) or f(*given))
    return used


@pytest.mark.parametrize("tiles", [1, 5])
def test_the_way_back_is_the_transpose(tiles):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, for both linear maps."""
    x, six = draw(2, 3, 4 * tiles + 2, 5), [draw(2, 3, tiles, 5) for _ in range(6)]
    there = sum((a * b).sum() for a, b in zip(winograd.split_four(x), six, strict=True))
    assert torch.allclose(there, (x * winograd.split_four_transposed([s.clone() for s in six])).sum())
    y = draw(2, 3, 4 * tiles, 5)
    there = (winograd.join_four([s.clone() for s in six]) * y).sum()
    back = winograd.join_four_transposed(y)
    assert torch.allclose(there, sum((a * b).sum() for a, b in zip(six, back, strict=True)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("height, width, dilation", [(4, 4, 1), (12, 7, 1), (8, 9, 2), (32, 16, 4)])
def test_the_plain_convolution_and_its_gradients(height, width, dilation, layout):
    border = 2 * dilation
    x = draw(2, 3, height + border, width + border).to(memory_format=layout).requires_grad_()
    weight = draw(5, 3, 3, 3).to(memory_format=layout).requires_grad_()
    plain, slope = F.conv2d(x, weight, dilation=dilation), draw(2, 5, height, width).to(memory_format=layout)
    expected = torch.autograd.grad(plain, [x, weight], slope)
    with torch.no_grad():
        assert torch.allclose(winograd.convolve(x, weight, dilation), plain)
        both = winograd.convolve_backward(slope, x, weight, dilation, True)
        assert all(torch.allclose(a, b) for a, b in zip(both, expected, strict=True))
        alone = winograd.convolve_backward(slope, None, weight, dilation, True)
        assert torch.allclose(alone[0], expected[0]) and alone[1] is None
        alone = winograd.convolve_backward(slope, x, weight, dilation, False)
        assert torch.allclose(alone[1], expected[1]) and alone[0] is None


@pytest.mark.parametrize("mode", ["reflect", "zeros"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_goes_there_and_back(everywhere, mode, dilation, frozen):
    """Outputs and gradients of PyTorch's layer, second derivatives included."""
    options = dict(kernel_size=3, padding=dilation, dilation=dilation, padding_mode=mode)
    theirs = nn.Conv2d(6, 8, **options).double().requires_grad_(not frozen)
    ours = (ReflectConv2d(6, 8, 3, dilation=dilation) if mode == "reflect" else PaddedConv2d(6, 8, **options)).float()
    ours.load_state_dict(theirs.state_dict())
    ours.requires_grad_(not frozen)
    image, results = draw(2, 6, 16, 11).to(memory_format=torch.channels_last), []
    for layer, x in ((ours, image.float()), (theirs, image)):
        inputs = [x.clone().requires_grad_(), *(() if frozen else layer.parameters())]
        results.append([layer(inputs[0]), *torch.autograd.grad(layer(inputs[0]).sin().sum(), inputs)])
        (slope,) = torch.autograd.grad(layer(inputs[0]).sin().sum(), inputs[0], create_graph=True)
        results[-1] += torch.autograd.grad(slope.square().sum(), inputs, allow_unused=True)[: len(inputs) - 1]
    for mine, other in zip(*results, strict=True):
        assert (mine - other).abs().max() < 1e-5 * (1 + other.abs().max())
    there, back = "convolve", "convolve_backward"
    assert everywhere == [there, there, back, there, back]  # the last one of the outer slope


def test_a_loss_network_gives_the_same_distance_and_slope(everywhere, monkeypatch):
    """One with dilations of 2 and 4, whose convolutions all go this way, but for those with a stride."""
    torch.manual_seed(0)
    encoder = ResNetEncoder(blocks=(1, 1, 1, 1), width=8, stem_channels=(8, 8, 16))
    network = PerceptualNetwork(encoder).to(memory_format=torch.channels_last)
    image, target = (torch.rand(2, 3, 128, 128).to(memory_format=torch.channels_last) for _ in range(2))
    found = []
    for least in (1, 2**60):
        monkeypatch.setattr(winograd, "LEAST_PRODUCTS", least)
        x = image.clone().requires_grad_()
        distance = network(x, target)
        found.append((distance, *torch.autograd.grad(distance, x)))
    (few, few_slope), (many, many_slope) = found
    assert (few - many).abs() < 1e-5 * many
    assert (few_slope - many_slope).norm() < 0.02 * many_slope.norm()  # at a ReLU's kink rounding decides
    assert everywhere.count("convolve") == 2 * 5 + 3  # stem and first stage: again for the way back
    assert everywhere.count("convolve_backward") == 5


def test_only_where_it_serves(everywhere):
    """Not with a stride, for other sizes, in other precisions and layouts."""
    x, weight = torch.rand(2, 8, 8, 6).to(memory_format=torch.channels_last), torch.rand(8, 8, 3, 3)
    assert not winograd.pays(x.contiguous(), weight, (1, 1), (1, 1))
    assert winograd.pays(x, weight, (1, 1), (1, 1)) and winograd.pays(x, weight, (1, 1), (2, 2))
    assert not winograd.pays(x, weight, (2, 2), (1, 1)) and not winograd.pays(x, weight, (1, 1), (4, 4))
    assert not winograd.pays(x[:, :, :7], weight, (1, 1), (1, 1))
    assert not winograd.pays(x, torch.rand(8, 8, 1, 1), (1, 1), (1, 1))
    assert not winograd.pays(x.double(), weight.double(), (1, 1), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.pays(x, weight, (1, 1), (1, 1))
        assert ReflectConv2d(8, 8, 3)(x).dtype == torch.bfloat16
    assert everywhere == []


@pytest.mark.parametrize("name", ["course", "course-regular", "course-scenes"])
def test_generators_that_ship_stay_as_they_are(name):
    """Too small for it, whatever the picture; the paper's is large enough."""

    def maps(*shape: int) -> torch.Tensor:
        return torch.zeros(shape).contiguous(memory_format=torch.channels_last)

    for layer in (module for module in load_generator(name).modules() if isinstance(module, PaddedConv2d)):
        assert not winograd.pays(maps(16, layer.in_channels, 64, 64), layer.weight, layer.stride, layer.dilation)
    assert winograd.pays(maps(2, 128, 32, 32), torch.empty(384, 128, 3, 3), (1, 1), (1, 1))
