"""The fast form computes what the generator computes: for every kind, size and strip, in less memory."""

import pytest
import torch
from torch import nn

from lama_minimal import fast
from lama_minimal.fast import FastGenerator
from lama_minimal.models import FourierGenerator, ResidualGenerator

GENERATORS = {
    "fourier": lambda: FourierGenerator(8, 2),
    "two downsamplings, lfu": lambda: FourierGenerator(8, 2, downsamplings=2, lfu=True),
    "local only": lambda: FourierGenerator(8, 1, global_ratio=0.0),
    "global only": lambda: FourierGenerator(8, 1, global_ratio=1.0),
    "regular": lambda: ResidualGenerator(8, 2),
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


@pytest.fixture(params=GENERATORS)
def generator(request):
    torch.manual_seed(3)
    return trained_looking(GENERATORS[request.param]())


@pytest.mark.parametrize("size", [(96, 96), (72, 136)])
@pytest.mark.parametrize("strip_pixels", [1, 5000, 2**20])
def test_same_numbers_in_strips_of_any_height(generator, size, strip_pixels, monkeypatch):
    monkeypatch.setattr(fast, "STRIP_PIXELS", strip_pixels)
    x = torch.rand(2, 4, *size)
    with torch.no_grad():
        expected = generator(x)
    assert expected.std() > 0.02
    result = FastGenerator(generator)(x)
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
