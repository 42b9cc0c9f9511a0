"""Receptive fields: against closed forms, known networks, exact gradients of linear stacks, and changed pixels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lama_minimal import receptive_field as rf
from lama_minimal.fourier import FFC
from lama_minimal.models import DILATIONS, Discriminator, FourierGenerator, ResidualGenerator


def noise(count=2, size=64, channels=4, seed=0, dtype=torch.float32):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stack(*layers, channels=1, value=1.0):
    """Convolutions (kernel, stride, dilation) with all weights the same, padded so that sizes are kept or halved."""
    convs = [nn.Conv2d(channels, channels, k, s, d * (k // 2), d, bias=False) for k, s, d in layers]
    for conv in convs:
        nn.init.constant_(conv.weight, value)
    return nn.Sequential(*convs)


def small(kind, blocks=1, seed=0):
    torch.manual_seed(seed)
    if kind == "fourier":
        return FourierGenerator(width=4, blocks=blocks)
    return ResidualGenerator(width=4, blocks=blocks, dilations=DILATIONS[kind])


def support(field):
    """First and last row and column where the field is not 0."""
    rows, columns = torch.nonzero(field, as_tuple=True)
    return [index.item() for index in (rows.min(), rows.max(), columns.min(), columns.max())]


# ----------------------------------------------------------------------------------------------------------- theory


def test_recursion_of_the_paper_s_regular_generator():
    """7 for the stem, 21 after downsampling at stride 8, 16 for each 3×3: 21 + 18 · 16 = 309."""
    fields = rf.recursion(rf.layers(ResidualGenerator(width=4)))
    assert [field.size for field in fields] == [7, 9, 13, 21, *range(37, 310, 16)]
    assert [field.jump for field in fields] == [1, 2, 4, 8] + [8] * 18


def test_recursion_takes_the_largest_of_parallel_dilations():
    fields = rf.recursion(rf.layers(small("dilated", blocks=2)))
    assert [field.size for field in fields[4:]] == [21 + 2 * 8 * 8 * count for count in (1, 2, 3, 4)]


def test_a_fourier_path_sees_everything():
    fields = rf.recursion(rf.layers(small("fourier", blocks=2)))
    assert [field.size for field in fields] == [7, 9, 13, 21] + [math.inf] * 4
    assert [f.size for f in rf.recursion(rf.layers(FourierGenerator(4, 1, global_ratio=0)))][-2:] == [37, 53]


def test_recursion_of_known_networks():
    """The discriminator of pix2pix is a 70×70 PatchGAN; VGG16's last convolution sees 196 pixels (Araujo 2019)."""
    assert rf.recursion(rf.layers(Discriminator(width=4, layers=3)))[-1].size == 70
    pools = [rf.Layer("pool", 2, 2, 1)]
    convs = [rf.Layer("conv", 3, 1, 1)]
    vgg = convs * 2 + pools + convs * 2 + pools + convs * 3 + pools + convs * 3 + pools + convs * 3
    assert rf.recursion(vgg)[-1].size == 196


def test_recursion_refuses_what_it_only_bounds():
    with pytest.raises(ValueError, match="seen"):
        list(rf.layers(nn.ConvTranspose2d(1, 1, 3)))


@pytest.mark.parametrize("kind", ["regular", "dilated"])
def test_walking_back_agrees_with_the_recursion(kind):
    generator = small(kind, blocks=3)
    sizes = [field.size for field in rf.recursion(rf.layers(generator))]
    for blocks in range(4):
        window = rf.seen(rf.UpTo(generator, f"block {blocks}"), (5, 9))
        assert window.rows.size == window.columns.size == sizes[3 + 2 * blocks]
        assert (sum(window.rows) / 2, sum(window.columns) / 2) == (5 * 8, 9 * 8)


def test_seen_of_kernels_that_are_not_square():
    conv = nn.Conv2d(1, 1, (3, 5), stride=(1, 2), padding=(0, 2), dilation=(2, 1))
    assert rf.seen(conv, (4, 3)) == ((4, 8), (4, 8))


@pytest.mark.parametrize("pixel", [30, 31, 32, 33, 34, 35, 36, 37])
def test_seen_through_the_decoder_is_exact(pixel):
    """All weights 1: the gradient is not 0 exactly on what is seen, at any phase of the strides."""
    decoder = nn.Sequential(
        *(nn.ConvTranspose2d(1, 1, 3, 2, 1, output_padding=1, bias=False) for _ in range(3)),
        nn.Conv2d(1, 1, 7, padding=3, bias=False),
    )
    for layer in decoder:
        nn.init.ones_(layer.weight)
    window = rf.seen(decoder, (pixel, pixel + 5))
    assert support(rf.effective_field(decoder, noise(1, 10, 1), (pixel, pixel + 5))) == [*window.rows, *window.columns]


def test_local_branch_becomes_global_one_convolution_later():
    """Within a block: the first FFC's global output sees everything, its local output only after the second FFC."""
    torch.manual_seed(0)
    generator = small("fourier")
    assert rf.seen(rf.UpTo(generator, "block 0", "local"), (4, 4)).rows.size == 21
    assert rf.seen(rf.UpTo(generator, "block 0", "global"), (4, 4)).rows.size == 21
    assert rf.seen(rf.UpTo(generator, "block 1", "local"), (4, 4)).rows == rf.EVERYTHING

    class First(nn.Module):
        """The block's first FFC, on both branches of the encoder."""

        def __init__(self, branch):
            super().__init__()
            self.branch = branch

        def forward(self, x):
            return generator.trunk[0].first(generator.encode(x))[self.branch]

    generator.eval()
    far = [rf.effective_field(First(branch), noise(1), (4, 4))[0, 0] for branch in (0, 1)]
    assert far[0] == 0 and far[1] > 0


def test_seen_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="Softmax2d"):
        rf.seen(nn.Softmax2d(), (0, 0))
    assert rf.seen(nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU()), (0, 0)).rows == (0, 2)


# ---------------------------------------------------------------------------------------------- a generator cut short


@pytest.mark.parametrize("kind", ["regular", "dilated", "fourier"])
def test_the_last_stage_gives_the_prediction(kind):
    generator = small(kind, blocks=2).eval()
    names = list(rf.stages(generator))
    assert names == [f"encoder {i}" for i in (1, 2, 3, 4)] + ["block 1", "block 2"] + [
        f"decoder {i}" for i in (1, 2, 3, 4)
    ]
    x = noise(1, 128)
    assert torch.equal(torch.sigmoid(rf.UpTo(generator, names[-1])(x)), generator(x))


def test_branches_are_parts_of_the_whole():
    generator = small("fourier", blocks=2).eval()
    x = noise(1)
    local, glob = generator.trunk(generator.encode(x))
    assert torch.equal(rf.UpTo(generator, "block 2", "local")(x), local)
    assert torch.equal(rf.UpTo(generator, "block 2", "global")(x), glob)
    assert torch.equal(rf.UpTo(generator, "block 2")(x), torch.cat([local, glob], 1))


def test_cutting_where_there_is_nothing():
    with pytest.raises(ValueError, match="no stage 'block 7'; there are encoder 1, "):
        rf.UpTo(small("regular"), "block 7")
    with pytest.raises(ValueError, match="branch is 'middle'"):
        rf.UpTo(small("fourier"), "block 1", "middle")
    with pytest.raises(ValueError, match="decoder 1 has no branches"):
        rf.UpTo(small("fourier"), "decoder 1", "local")
    with pytest.raises(ValueError, match="no channels"):
        rf.UpTo(FourierGenerator(4, 1, global_ratio=0), "block 1", "global")(noise(1))


# --------------------------------------------------------------------------------------------------------- in effect


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_ones_give_the_squares_of_trinomial_coefficients(depth):
    """k boxes of width 3 convolve to trinomial coefficients, (1 + z + z²)^k, along rows and columns (Luo 2016)."""
    field = rf.effective_field(stack(*[(3, 1, 1)] * depth), noise(3, 17, 1), (8, 8), probes=None)
    row = np.array([1])
    for _ in range(depth):
        row = np.convolve(row, [1, 1, 1])
    expected = np.zeros(17)
    expected[8 - depth : 9 + depth] = row
    np.testing.assert_allclose(field.numpy(), np.outer(expected, expected) ** 2, rtol=1e-6)


def test_a_single_convolution_shows_its_kernel():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 5, padding=2)
    field = rf.effective_field(conv, noise(2, 12, 3), (6, 4), probes=None)
    expected = torch.zeros(12, 12, dtype=torch.float64)
    expected[4:9, 2:7] = conv.weight.detach().double().square().sum(dim=(0, 1))
    torch.testing.assert_close(field, expected)


def test_stride_and_dilation():
    field = rf.effective_field(stack((3, 2, 1), (3, 1, 2)), noise(1, 32, 1), (7, 7))
    places = [9, 10, 11, 13, 14, 15, 17, 18, 19]  # 2 · (7 + (-2, 0, 2)) + (-1, 0, 1)
    assert torch.nonzero(field[14]).flatten().tolist() == places
    assert torch.nonzero(field[:, 14]).flatten().tolist() == places


def test_probes_agree_with_the_exact_field():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 6, 3, padding=1)
    exact = rf.effective_field(conv, noise(4, 8, 2), (4, 4), probes=None)
    probed = rf.effective_field(conv, noise(4, 8, 2), (4, 4), probes=4000, seed=1)
    torch.testing.assert_close(probed, exact, rtol=0.1, atol=0)  # 8 standard errors


def test_the_same_seed_gives_the_same_field():
    generator, x = small("fourier"), noise()
    once = rf.effective_field(rf.UpTo(generator, "block 1"), x, (4, 4), seed=3)
    assert torch.equal(rf.effective_field(rf.UpTo(generator, "block 1"), x, (4, 4), seed=3), once)
    assert not torch.equal(rf.effective_field(rf.UpTo(generator, "block 1"), x, (4, 4), seed=4), once)


def test_batches_change_nothing_but_rounding():
    network, x = rf.UpTo(small("regular"), "block 1"), noise(5)
    whole, parts = (rf.effective_field(network, x, (4, 4), None, batch_size=size) for size in (5, 2))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "stage", "size"),
    [("regular", "encoder 4", 40), ("regular", "decoder 4", 40), ("dilated", "block 1", 80)]
    + [("fourier", stage, 40) for stage in ("block 1", "decoder 4")],
)
def test_changed_pixels_agree_with_the_gradient(kind, stage, size):
    """Pixels here and there moved up and down, in float64: the same field without a gradient."""
    network = rf.UpTo(small(kind).double(), stage)
    x = noise(2, size, dtype=torch.float64)
    rf.calibrate(network, x)
    h = network(x).shape[-1]
    field = rf.effective_field(network, x, (h // 2, h // 2), probes=None)
    middle = h // 2 * (size // h)
    at = [(middle + dy, middle + dx) for dy, dx in [(0, 0), (0, 3), (-4, 1), (7, -7), (9, 2), (-10, 10)]] + [(0, 1)]
    changed = rf.perturbed_field(network, x, (h // 2, h // 2), at, step=1e-7)
    expected = field[tuple(torch.tensor(at).T)]
    assert (expected > 0).sum() >= 5
    torch.testing.assert_close(changed, expected, rtol=1e-3, atol=1e-6 * expected.max().item())


@pytest.mark.parametrize("stage", ["block 0", "block 1", "decoder 4"])
def test_theory_bounds_practice(stage):
    """Outside of the square the field is exactly 0; inside it reaches the square's borders."""
    network = rf.UpTo(small("regular"), stage)
    x = noise(2, 160)
    rf.calibrate(network, x)
    scale = 160 // network(x).shape[-1]
    pixel = (72 // scale, 80 // scale)
    window = rf.seen(network, pixel)
    assert window.rows.first >= 8 and window.rows.last < 152
    field = rf.effective_field(network, x, pixel, probes=4)
    assert support(field) == [*window.rows, *window.columns]


def test_regular_sees_no_far_corner_and_fourier_does():
    x = noise(2, 160)
    fields = {}
    for kind in ("regular", "fourier"):
        network = rf.UpTo(small(kind), "block 1")
        rf.calibrate(network, x)
        fields[kind] = rf.effective_field(network, x, (3, 3))
    assert fields["regular"][-1, -1] == 0 and fields["fourier"][-1, -1] > 0
    assert (fields["fourier"] > 0).float().mean() > 0.99


def test_the_effective_field_is_far_smaller_than_the_theoretical_square():
    """A square of even weight would hold 90% of its energy within 0.54 of its side."""
    x = noise(2, 256)
    network = rf.UpTo(small("regular", blocks=4), "block 4")
    rf.calibrate(network, x)
    window = rf.seen(network, (16, 16))
    assert window.rows.size == 149
    assert rf.radius_holding(rf.effective_field(network, x, (16, 16)), (128, 128), 0.9) < 149 / 3


# ------------------------------------------------------------------------------------------------------------- state


def test_measuring_leaves_the_network_as_it_was():
    network = rf.UpTo(small("fourier"), "decoder 4").train()
    network.stages[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    x = noise()
    rf.effective_field(network, x, (8, 8))
    rf.perturbed_field(network, x, (8, 8), [(1, 1)])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters()) and not x.requires_grad


def test_batchnorm_runs_in_evaluation_mode():
    """With the batch's own statistics the other pictures and every pixel would enter the gradient."""
    network = nn.Sequential(stack((3, 1, 1)), nn.BatchNorm2d(1)).train()
    field = rf.effective_field(network, noise(4, 16, 1), (8, 8))
    assert support(field) == [7, 9, 7, 9]


def test_calibration_gives_every_batchnorm_the_statistics_of_its_input():
    network = rf.UpTo(small("fourier"), "block 1").eval()
    x = 3 + 2 * noise(8)
    rf.calibrate(network, x)
    assert not any(module.training for module in network.modules())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)
    outputs = []
    for norm in norms:
        norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach().clone()))
    network(x)
    assert len(outputs) == len(norms)
    for output in outputs:  # statistics are unbiased, which differs a little from layer to layer
        assert output.mean(dim=(0, 2, 3)).abs().max() < 0.02
        assert (output.std(dim=(0, 2, 3)) - 1).abs().max() < 0.05


# ------------------------------------------------------------------------------------------------------------- radius


def test_radius_of_a_ring_and_a_point():
    field = torch.zeros(21, 21)
    field[10, 10] = 6
    field[10, 15] = field[5, 10] = 2  # 5 away
    assert [rf.radius_holding(field, (10, 10), share) for share in (0, 0.5, 0.6, 0.61, 1)] == [0, 0, 0, 5, 5]


def test_radius_of_a_gaussian():
    """Energy exp(-r² / 2σ²) in two dimensions: the share 1 - exp(-R² / 2σ²) lies within R."""
    y, x = torch.meshgrid(torch.arange(201.0), torch.arange(181.0), indexing="ij")
    field = torch.exp(-((y - 100) ** 2 + (x - 90) ** 2) / (2 * 15**2))
    for share in (0.5, 0.9):
        assert rf.radius_holding(field, (100, 90), share) == pytest.approx(
            15 * math.sqrt(-2 * math.log(1 - share)), 0.01
        )


def test_a_radius_needs_something_to_hold():
    with pytest.raises(ValueError, match="0 everywhere"):
        rf.radius_holding(torch.zeros(3, 3), (1, 1), 0.5)
    with pytest.raises(ValueError, match="share is 50"):
        rf.radius_holding(torch.ones(3, 3), (1, 1), 50)


def test_layers_of_an_ffc_without_a_spectral_path():
    assert [layer.kernel for layer in rf.layers(FFC((4, 0), (2, 2), 3))] == [3]
    assert [layer.kernel for layer in rf.layers(FFC((2, 2), (2, 2), 3))] == [math.inf]
