"""Agreement with the authors' code, number by number."""

import numpy as np
import pytest
import torch
from reference import REFERENCE, draw_weights, hole, image, relative_error, tensors

from lama_minimal.checkpoint import load_reference
from lama_minimal.config import LossSettings
from lama_minimal.data import Batch
from lama_minimal.models import generator_input
from lama_minimal.steps import discriminator_step, generator_step

GENERATORS = list(REFERENCE["generators"])
NOISE = 1e-2
"""Gradient norms below this belong to biases before a BatchNorm, whose true gradient is 0."""


@pytest.fixture(scope="module")
def golden():
    return tensors()


def load_generator(name):
    return load_reference(draw_weights(REFERENCE["generators"][name]["keys"], seed=100), "generator")


def weigh(output):
    """The scalar whose gradients are recorded: a fixed random weighting of the output."""
    weights = np.random.RandomState(3100).standard_normal(tuple(output.shape)).astype(np.float32)
    return (output * torch.from_numpy(weights)).sum()


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_in_evaluation_mode(golden, name):
    generator = load_generator(name)
    x = golden[f"{name}.x"].requires_grad_()
    y = generator(x)
    weigh(y).backward()
    assert relative_error(y, golden[f"{name}.y_eval"]) < 1e-4
    assert relative_error(x.grad, golden[f"{name}.grad_x_eval"]) < 1e-4


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_in_training_mode(golden, name):
    """The state dict's order is ours, so norms are matched through the converter's own loading of marked weights."""
    expected = REFERENCE["generators"][name]
    generator = load_generator(name).train()
    y = generator(golden[f"{name}.x"])
    assert relative_error(y, golden[f"{name}.y_train"]) < 1e-4
    weigh(y).backward()
    # Which of their names became which of ours: fill every entry with its own number and look where it went.
    marked = {key: torch.full(shape, float(k)) for k, (key, shape) in enumerate(expected["keys"].items())}
    places = {int(p.flatten()[0]): our for our, p in load_reference(marked, "generator").named_parameters()}
    gradients = {our: parameter.grad.norm().item() for our, parameter in generator.named_parameters()}
    assert len(expected["grad_norms_train"]) == len(gradients)
    for k, key in enumerate(expected["keys"]):
        if key not in expected["grad_norms_train"]:
            continue
        theirs, ours = expected["grad_norms_train"][key], gradients[places[k]]
        if theirs < NOISE:
            assert ours < 10 * NOISE, key
        else:
            assert ours == pytest.approx(theirs, rel=1e-4), key


@pytest.mark.parametrize("name", GENERATORS)
def test_parameter_count(name):
    count = sum(p.numel() for p in load_generator(name).parameters())
    assert count == REFERENCE["generators"][name]["params"]


def test_discriminator(golden):
    discriminator = load_reference(draw_weights(REFERENCE["discriminator"], seed=600), "discriminator")
    logits, features = discriminator(golden["discriminator.x"])
    assert relative_error(logits, golden["discriminator.logits"]) < 1e-4
    assert len(features) == 5
    for n, feature in enumerate(features):
        assert relative_error(feature, golden[f"discriminator.feature{n}"]) < 1e-4


@pytest.mark.parametrize("name", ["hrf_resnet18dilated", "hrf_resnet50dilated"])
def test_perceptual(golden, name):
    expected = REFERENCE[name]
    network = load_reference(draw_weights(expected["keys"], seed=1000), "perceptual")
    prediction = golden[f"{name}.pred"].requires_grad_()
    loss = 30 * network(prediction, golden[f"{name}.target"])
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss_x30"], rel=1e-4)
    assert prediction.grad.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-4)
    features = network.features(golden[f"{name}.pred"])
    assert [list(f.shape) for f in features] == expected["feature_shapes"]
    assert [f.mean().item() for f in features] == pytest.approx(expected["feature_means"], rel=1e-4)


def test_trajectory(golden):
    """Three whole optimisation steps, from drawn weights, with the paper's losses but the perceptual one."""
    seed, shapes = REFERENCE["trajectory"]["config"]["seed"], REFERENCE["generators"]["fourier"]["keys"]
    generator = load_reference(draw_weights(shapes, seed), "generator").train()
    discriminator = load_reference(draw_weights(REFERENCE["discriminator"], 800), "discriminator").train()
    generator_adam = torch.optim.Adam(generator.parameters(), lr=1e-3)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), lr=1e-4)
    weights = LossSettings()
    for s, expected in enumerate(REFERENCE["trajectory"]["log"]):
        batch = Batch(image(seed + 10 * s + 7, 2, 64, 64), hole(seed + 10 * s + 8, 2, 64, 64))
        terms, _ = generator_step(generator, discriminator, None, generator_adam, [batch], weights)
        terms |= discriminator_step(generator, discriminator, discriminator_adam, [batch], weights)
        ours = {"grad_norm_generator": "grad_norm_g", "grad_norm_discriminator": "grad_norm_d"}
        for name, value in terms.items():
            theirs = expected[ours.get(name, name)]
            if name == "discriminator":
                theirs -= expected["r1"]  # the reference logs the sum
            assert value.item() == pytest.approx(theirs, rel=1e-4 if s == 0 else 1e-2), (s, name)
    final = generator.eval()(generator_input(image(seed + 77, 2, 64, 64), hole(seed + 78, 2, 64, 64)))
    assert relative_error(final, golden["trajectory.final_y"]) < 1e-2


def reference_shapes(width, downsamplings, blocks, ratio, lfu):
    """Keys and shapes of the authors' FFC generator, written down from their layer list (not from our converter)."""
    shapes = {}

    def norm(name, channels):
        for entry in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{entry}"] = [channels]
        shapes[f"{name}.num_batches_tracked"] = []

    def ffc(name, inside, outside, kernel):
        for source, channels_in in zip("lg", inside, strict=True):
            for target, channels_out in zip("lg", outside, strict=True):
                if channels_in and channels_out and source + target != "gg":
                    shapes[f"{name}.ffc.conv{source}2{target}.weight"] = [channels_out, channels_in, kernel, kernel]
        if inside[1] and outside[1]:
            at, half = f"{name}.ffc.convg2g", outside[1] // 2
            shapes[f"{at}.conv1.0.weight"] = [half, inside[1], 1, 1]
            norm(f"{at}.conv1.1", half)
            for unit in ["fu", "lfu"] if lfu else ["fu"]:
                shapes[f"{at}.{unit}.conv_layer.weight"] = [2 * half, 2 * half, 1, 1]
                norm(f"{at}.{unit}.bn", 2 * half)
            shapes[f"{at}.conv2.weight"] = [outside[1], half, 1, 1]
        for branch, channels in zip("lg", outside, strict=True):
            if channels:
                norm(f"{name}.bn_{branch}", channels)

    wide = width * 2**downsamplings
    trunk = (wide - int(wide * ratio), int(wide * ratio))
    ffc("model.1", (4, 0), (width, 0), 7)
    for n in range(downsamplings):
        last = n == downsamplings - 1
        ffc(f"model.{n + 2}", (width * 2**n, 0), trunk if last else (width * 2 ** (n + 1), 0), 3)
    for n in range(blocks):
        for half in ("conv1", "conv2"):
            ffc(f"model.{downsamplings + 2 + n}.{half}", trunk, trunk, 3)
    at = downsamplings + blocks + 3
    for n in range(downsamplings):
        channels = wide // 2**n
        shapes[f"model.{at + 3 * n}.weight"] = [channels, channels // 2, 3, 3]
        shapes[f"model.{at + 3 * n}.bias"] = [channels // 2]
        norm(f"model.{at + 3 * n + 1}", channels // 2)
    shapes[f"model.{at + 3 * downsamplings + 1}.weight"] = [3, width, 7, 7]
    shapes[f"model.{at + 3 * downsamplings + 1}.bias"] = [3]
    return shapes


def test_the_written_down_shapes_are_the_golden_ones():
    assert reference_shapes(8, 3, 2, 0.75, False) == REFERENCE["generators"]["fourier"]["keys"]
    assert len(reference_shapes(64, 3, 18, 0.75, False)) == 989  # as published for big-lama
    assert len(reference_shapes(64, 3, 9, 0.75, False)) == 521  # and for lama-fourier


@pytest.mark.parametrize("width", [6, 16])
@pytest.mark.parametrize(("downsamplings", "blocks"), [(2, 1), (3, 3), (4, 1)])
@pytest.mark.parametrize(("ratio", "lfu"), [(0.0, False), (0.5, False), (0.75, True), (1.0, False)])
def test_other_widths_depths_and_ratios_load(width, downsamplings, blocks, ratio, lfu):
    shapes = reference_shapes(width, downsamplings, blocks, ratio, lfu and width == 16)
    generator = load_reference(draw_weights(shapes, 5), "generator")
    assert sum(p.numel() for p in generator.state_dict().values()) == sum(
        np.prod(s, dtype=int) for s in shapes.values()
    )
    side = 2 * 2**downsamplings
    assert generator(torch.rand(1, 4, side, 2 * side)).shape == (1, 3, side, 2 * side)
