"""Networks: the spec's sizes and counts, any picture size, and the loss networks' promises."""

import pytest
import torch

from lama_minimal.config import PRESETS
from lama_minimal.models import (
    Discriminator,
    FourierGenerator,
    ResidualGenerator,
    build_generator,
    composite,
    count_parameters,
    generator_input,
)
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder, VGG19Encoder, mean_square


def build(preset):
    from dataclasses import asdict

    with torch.device("meta"):  # shapes without memory
        return build_generator(**asdict(PRESETS[preset].generator))


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("lama-fourier", 27_048_835),
        ("big-lama", 50_975_875),
        ("lama-regular", 45_617_731),
        ("lama-dilated", 45_645_379),
    ],
)
def test_presets_have_the_published_sizes(preset, count):
    assert count_parameters(build(preset)) == count


def test_other_published_counts():
    with torch.device("meta"):
        assert count_parameters(ResidualGenerator(blocks=15)) == 73_947_715
        assert round(count_parameters(FourierGenerator(blocks=6)) / 1e6, 2) == 19.07
        assert count_parameters(Discriminator()) == 6_962_369
        assert count_parameters(ResNetEncoder()) == 23_631_808


def test_discriminator_sizes_at_256():
    with torch.device("meta"):
        logits, features = Discriminator()(torch.empty(1, 3, 256, 256))
    assert [f.shape[-1] for f in features] == [129, 65, 33, 17, 18]
    assert logits.shape == (1, 1, 19, 19)


def test_hrf_sizes_at_256():
    with torch.device("meta"):
        features = ResNetEncoder()(torch.empty(1, 3, 256, 256))
        undilated = ResNetEncoder(dilated=False)(torch.empty(1, 3, 256, 256))
    assert [(f.shape[1], f.shape[-1]) for f in features] == [(256, 64), (512, 32), (1024, 32), (2048, 32)]
    assert [f.shape[-1] for f in undilated] == [64, 32, 16, 8]


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (72, 56), (40, 136)])
@pytest.mark.parametrize("lfu", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 1.0])
def test_fourier_generator_takes_any_multiple_of_8(size, lfu, ratio):
    torch.manual_seed(0)
    generator = FourierGenerator(width=8, blocks=1, global_ratio=ratio, lfu=lfu)
    x = torch.rand(2, 4, *size)
    for mode in (True, False):
        y = generator.train(mode)(x)
        assert y.shape == (2, 3, *size)
        assert y.min() >= 0 and y.max() <= 1
    assert generator.eval()(x[:1]).allclose(y[:1], atol=1e-5)  # in evaluation mode pictures do not meet


@pytest.mark.parametrize(("dilations", "least"), [((1,), 16), ((1, 2, 4, 8), 72)])
def test_residual_generators_take_their_least_size(dilations, least):
    generator = ResidualGenerator(width=8, blocks=1, dilations=dilations).eval()
    assert generator(torch.rand(1, 4, least, least + 8)).shape == (1, 3, least, least + 8)
    with pytest.raises(RuntimeError):
        ResidualGenerator(width=8, blocks=1, dilations=(1, 2, 4, 8)).eval()(torch.rand(1, 4, 64, 64))


def test_a_hole_hides_what_is_under_it():
    image, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 4:9] = 1
    other = torch.where(mask.bool(), torch.rand(1, 3, 16, 16), image)
    assert torch.equal(generator_input(image, mask), generator_input(other, mask))
    assert torch.equal(composite(other, image, mask), other)


def test_perceptual_network_keeps_its_mode_and_its_weights():
    torch.manual_seed(0)
    encoder = ResNetEncoder((1, 1, 1, 1), bottleneck=False, width=8, stem_channels=(8, 8, 8))
    image = torch.rand(2, 3, 64, 64)
    for statistics in (True, False):
        network = PerceptualNetwork(encoder, batch_statistics=statistics)
        for mode in (True, False):
            network.train(mode)
            assert all(module.training == statistics for module in encoder.modules())
        before = {name: buffer.clone() for name, buffer in encoder.named_buffers() if "tracked" not in name}
        first = network(image, image.flip(-1))
        assert torch.equal(first, network(image, image.flip(-1)))
        assert all(torch.equal(buffer, dict(encoder.named_buffers())[name]) for name, buffer in before.items())
        assert network(image, image) == 0
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_distance_keeps_the_layout_of_its_features():
    """Value and gradient are those of PyTorch's own; that one forgets the layout."""
    first, second = torch.randn(2, 2, 5, 7, 6)
    wanted = first.clone().requires_grad_()
    torch.nn.functional.mse_loss(wanted, second).backward()
    for layout in (torch.contiguous_format, torch.channels_last):
        given = first.clone(memory_format=layout).requires_grad_()
        (slope,) = torch.autograd.grad(mean_square(given * 1, second.contiguous(memory_format=layout)), given)
        assert torch.equal(slope, wanted.grad) and slope.is_contiguous(memory_format=layout)
    assert mean_square(torch.full((1, 1, 2, 2), 300.0).half(), torch.zeros(1, 1, 2, 2)).item() == 90000


def test_weights_rounded_once_are_those_rounded_at_every_call():
    network = PerceptualNetwork(ResNetEncoder((1, 1, 1, 1), bottleneck=False, width=8, stem_channels=(8, 8, 8)))
    prediction, target = (torch.rand(2, 3, 64, 64) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        before = network(prediction, target)
        assert torch.equal(network.compute_in(torch.bfloat16)(prediction, target), before)
    assert {p.dtype for p in network.parameters()} == {torch.float32, torch.bfloat16}  # BatchNorm's stay


def test_shallow_maps_of_a_frozen_network_are_computed_again():
    """The same gradient, also in mixed precision; a third less to keep; a network in training counts pictures once."""
    encoder = ResNetEncoder((2, 2, 2, 2), width=8, stem_channels=(8, 8, 16))
    network = PerceptualNetwork(encoder)
    prediction, target = torch.rand(2, 3, 64, 64, requires_grad=True), torch.rand(2, 3, 64, 64)
    gradients, kept = [], []
    for encoder.recompute in (False, True):
        sizes = {}  # of what the backward pass will need, by place in memory

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        for precision in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                    loss = network(prediction, target)
                gradients.append(torch.autograd.grad(loss, prediction)[0])
            kept.append(sum(sizes.values()))
            sizes.clear()
    assert torch.equal(gradients[0], gradients[2]) and torch.equal(gradients[1], gradients[3])
    assert gradients[0].abs().sum() > 0
    assert kept[2] < 0.7 * kept[0] and kept[3] < 0.7 * kept[1]

    learning = ResNetEncoder((1, 1, 1, 1), bottleneck=False, width=8, stem_channels=(8, 8, 8))
    learning(prediction)[-1].sum().backward()
    assert {int(count) for name, count in learning.named_buffers() if "tracked" in name} == {1}


def test_the_target_gets_no_gradient():
    network = PerceptualNetwork(ResNetEncoder((1, 1, 1, 1), bottleneck=False, width=8, stem_channels=(8, 8, 8)))
    prediction, target = (torch.rand(2, 3, 64, 64, requires_grad=True) for _ in range(2))
    network(prediction, target).backward()
    assert prediction.grad.abs().sum() > 0 and target.grad is None


def test_dilation_widens_what_a_feature_sees():
    """The reach of one deep feature, by gradients, in a network of positive weights (so that nothing cancels)."""
    reach = {}
    for dilated in (True, False):
        encoder = ResNetEncoder((1, 1, 1, 1), bottleneck=False, width=4, stem_channels=(4, 4, 4), dilated=dilated)
        for parameter in encoder.parameters():
            parameter.data.fill_(0.1)
        other = encoder.with_dilation(not dilated).with_dilation(dilated).eval()
        picture = torch.rand(1, 3, 64, 64)
        assert torch.equal(other(picture)[-1], encoder.eval()(picture)[-1])
        x = torch.ones(1, 3, 512, 512, requires_grad=True)
        deep = encoder.eval()(x)[-1]
        deep[0, 0, deep.shape[2] // 2, deep.shape[3] // 2].backward()
        columns = x.grad.abs().sum(dim=(0, 1, 2)).nonzero()
        reach[dilated] = (columns.max() - columns.min() + 1).item()
    # By the recursion both see 199 pixels, the dilated one at four times as many positions; max pooling trims it.
    assert 190 <= reach[True] <= 199
    assert 190 <= reach[False] <= 199


def test_vgg19_is_the_usual_one():
    with torch.device("meta"):
        features = VGG19Encoder()(torch.empty(1, 3, 224, 224))
    assert len(features) == 13
    assert [f.shape[1] for f in features] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 5
    assert features[-1].shape[-1] == 14
