"""Both halves of a training step: what they change, what they leave alone, and that they learn."""

import copy
import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reference import hole, image

from lama_minimal import losses
from lama_minimal.config import LossSettings
from lama_minimal.data import Batch
from lama_minimal.models import Discriminator, FourierGenerator, ResidualGenerator, generator_input
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder
from lama_minimal.steps import discriminator_step, generator_step

ALL = LossSettings(l1_hole=1.0)
NONE = replace(ALL, **{f.name: 0.0 for f in fields(LossSettings) if f.name != "mask_target"})


def batch(seed=0, count=2, size=32):
    return Batch(image(seed, count, size, size), hole(seed, count, size, size))


def networks(seed=0):
    torch.manual_seed(seed)
    generator = FourierGenerator(width=8, blocks=1, downsamplings=2)
    encoder = ResNetEncoder((1, 1, 1, 1), bottleneck=False, width=8, stem_channels=(8, 8, 8))
    return generator, Discriminator(width=8, layers=2), PerceptualNetwork(encoder)


def adam(network, rate=1e-3):
    return torch.optim.Adam(network.parameters(), lr=rate)


def snapshot(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def changed(network, before):
    return [name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])]


def test_generator_step_leaves_the_discriminator_alone():
    generator, discriminator, perceptual = networks()
    before = [snapshot(network) for network in (generator, discriminator, perceptual)]
    statistics = copy.deepcopy(dict(perceptual.named_buffers()))
    generator_step(generator, discriminator, perceptual, adam(generator), [batch()], ALL)
    assert len(changed(generator, before[0])) == len(before[0])
    assert not changed(discriminator, before[1])
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert not changed(perceptual, before[2])
    for name, buffer in perceptual.named_buffers():  # running statistics of the judge stay as well
        assert torch.equal(buffer, statistics[name]) or name.endswith("num_batches_tracked")


def test_each_judge_lets_its_feature_maps_go_before_the_next_one_looks():
    generator, discriminator, perceptual = networks()
    maps, alive = [], []
    for stage in discriminator.stages:
        stage.register_forward_hook(lambda *call: maps.append(weakref.ref(call[-1])))
    perceptual.register_forward_pre_hook(lambda *_: alive.extend(one() is not None for one in maps))
    generator_step(generator, discriminator, perceptual, adam(generator), [batch()], ALL)
    assert len(alive) == 2 * len(discriminator.stages) and not any(alive)


def test_the_gradient_is_that_of_the_sum_of_all_terms():
    """Against one backward pass through everything, with PyTorch's own distances."""
    generator, discriminator, perceptual = networks()
    twin, (one,) = copy.deepcopy(generator), [batch()]
    still = torch.optim.SGD(generator.parameters(), lr=0.0)
    generator_step(generator, discriminator, perceptual, still, [one], ALL, clip=1e9)
    prediction = twin(generator_input(*one))
    fake_logits, fake = discriminator(prediction)
    real = [feature.detach() for feature in discriminator(one.image)[1]]
    mse = torch.nn.functional.mse_loss
    known = (prediction - one.image).abs() * (ALL.l1_known * (1 - one.mask) + ALL.l1_hole * one.mask)
    features = zip(perceptual.features(prediction), perceptual.features(one.image), strict=True)
    (
        known.mean()
        + ALL.adversarial * torch.nn.functional.softplus(-fake_logits).mean()
        + ALL.feature_matching * sum(mse(*pair) for pair in zip(fake, real, strict=True)) / len(fake)
        + ALL.perceptual * sum(mse(p, t.detach()) for p, t in features)
    ).backward()
    ours, theirs = (torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (generator, twin))
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_discriminator_step_leaves_the_generator_alone():
    generator, discriminator, _ = networks()
    before = [snapshot(network) for network in (generator, discriminator)]
    discriminator_step(generator, discriminator, adam(discriminator), [batch()], ALL)
    assert not changed(generator, before[0])
    assert all(p.grad is None for p in generator.parameters())
    assert len(changed(discriminator, before[1])) == len(before[1])


def test_a_prediction_made_before_is_judged_as_a_new_one_would_be():
    """With a generator that does not move in between, judging its first prediction again changes nothing."""
    steps = []
    for reuse in (False, True):
        generator, discriminator, perceptual = networks()
        still = torch.optim.SGD(generator.parameters(), lr=0.0)
        _, predictions = generator_step(generator, discriminator, perceptual, still, [batch(0), batch(1)], ALL)
        asked = []
        generator.register_forward_pre_hook(lambda *_: asked.append(1))  # noqa: B023  called in this turn only
        terms = discriminator_step(
            generator,
            discriminator,
            adam(discriminator),
            [batch(0), batch(1)],
            ALL,
            predictions=predictions if reuse else None,
        )
        assert len(asked) == (0 if reuse else 2)
        steps.append((terms, snapshot(discriminator)))
    for name, value in steps[0][0].items():
        assert steps[1][0][name].item() == pytest.approx(value.item(), rel=1e-5), name
    for name, value in steps[0][1].items():
        assert torch.allclose(steps[1][1][name], value, atol=1e-6), name


@pytest.mark.parametrize("term", ["l1_known", "l1_hole", "adversarial", "feature_matching", "perceptual"])
def test_every_generator_term_reaches_every_layer(term):
    generator, discriminator, perceptual = networks()
    uses = term in ("adversarial", "feature_matching")
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.0)
    weights = replace(NONE, **{term: 1.0})
    generator_step(
        generator, discriminator if uses else None, perceptual if term == "perceptual" else None,
        optimizer, [batch()], weights, clip=float("inf"),
    )  # fmt: skip
    without = [
        name for name, parameter in generator.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    # Nothing can reach a bias whose effect the following BatchNorm takes out again, beyond rounding.
    assert not [name for name in without if not name.endswith(".0.bias")]


def test_r1_penalty_has_a_gradient_and_the_right_value():
    """For a linear discriminator D(x) = <w, x> the penalty is ‖w‖², and its gradient 2w."""
    torch.manual_seed(0)
    w = torch.randn(3, 8, 8, requires_grad=True)
    x = torch.rand(4, 3, 8, 8, requires_grad=True)
    penalty = losses.r1_penalty((x * w).sum(dim=(1, 2, 3)), x)
    penalty.backward()
    assert penalty.item() == pytest.approx(w.square().sum().item(), rel=1e-5)
    assert torch.allclose(w.grad, 2 * w, rtol=1e-4)


def test_overfits_one_batch():
    """One batch, all losses: the error in the hole falls to a fraction of filling with the mean colour."""
    generator, discriminator, perceptual = networks(1)
    x, m = one = batch(5)
    weights = replace(ALL, l1_hole=10.0, adversarial=0.3, feature_matching=1.0, perceptual=0.3)
    optimizers = adam(generator, 5e-3), adam(discriminator, 1e-4)

    def error():
        prediction = generator(generator_input(x, m))
        return (((prediction - x).abs() * m).sum() / (3 * m.sum())).item()

    mean_colour = ((x * (1 - m)).sum((2, 3), keepdim=True) / (1 - m).sum((2, 3), keepdim=True)).expand_as(x)
    baseline = (((mean_colour - x).abs() * m).sum() / (3 * m.sum())).item()
    for _ in range(100):
        generator_step(generator, discriminator, perceptual, optimizers[0], [one], weights)
        discriminator_step(generator, discriminator, optimizers[1], [one], weights)
    assert error() < 0.4 * baseline


def test_two_micro_batches_average_their_gradients():
    """With BatchNorm in evaluation mode samples do not meet, so that two halves equal the whole."""
    generators = []
    whole = batch(3, count=4)
    halves = [Batch(*(part[:2] for part in whole)), Batch(*(part[2:] for part in whole))]
    for batches in ([whole], halves):
        generator, discriminator, perceptual = (network.eval() for network in networks(2))
        perceptual.batch_statistics = False
        optimizer = torch.optim.SGD(generator.parameters(), lr=0.01)
        perceptual.train()
        generator_step(generator, discriminator, perceptual, optimizer, batches, ALL)
        generators.append(snapshot(generator))
    for name, weight in generators[0].items():
        assert torch.allclose(weight, generators[1][name], atol=1e-6), name


def test_mask_targets():
    """One missing pixel: the nearest-neighbour target may overlook it, any overlap may not."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[0, 0, 13, 37] = 1
    nearest = losses.fake_target(mask, (9, 9), "nearest")
    overlapping = losses.fake_target(mask, (9, 9), "any-overlap")
    assert nearest.sum() == 0
    assert overlapping[0, 0, 13 * 9 // 64, 37 * 9 // 64] == 1
    assert 1 <= overlapping.sum() <= 4  # cells overlap by a pixel


def test_discriminator_loss_prefers_the_truth():
    """Right answers (real: real; hole: fake; known: real) cost nothing, and each wrong one costs."""
    fake = torch.tensor([[[[0.0, 1.0]]]])
    sure = 20.0
    right_real, right_fake = torch.tensor([[[[sure, sure]]]]), torch.tensor([[[[sure, -sure]]]])
    assert losses.adversarial_discriminator(right_real, right_fake, fake) < 1e-6
    assert losses.adversarial_discriminator(-right_real, right_fake, fake) > 10
    assert losses.adversarial_discriminator(right_real, -right_fake, fake) > 10
    assert losses.adversarial_generator(torch.tensor([-sure])) > 10 > losses.adversarial_generator(torch.tensor([sure]))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_stays_close_to_float32(precision):
    terms = {}
    for name in ("float32", precision):
        generator, discriminator, perceptual = networks(4)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if name == "float16" else None
        options = dict(precision=name)
        first, _ = generator_step(
            generator, discriminator, perceptual, adam(generator), [batch(1)], ALL, scaler=scaler, **options
        )
        second = discriminator_step(generator, discriminator, adam(discriminator), [batch(1)], ALL, **options)
        terms[name] = first | second
    for name, value in terms["float32"].items():
        assert terms[precision][name].item() == pytest.approx(value.item(), rel=0.15), name


def test_a_dilated_generator_trains_too():
    torch.manual_seed(0)
    generator = ResidualGenerator(width=8, blocks=1, downsamplings=2, dilations=(1, 2))
    before = snapshot(generator)
    generator_step(generator, None, None, adam(generator), [batch()], replace(NONE, l1_known=1.0))
    assert changed(generator, before)


def _train_two_steps(rank, world, file, results):
    """Two steps of both networks: each process on its share of four samples, BatchNorm on its own share."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    generator, discriminator, perceptual = networks(7)
    optimizers = adam(generator), adam(discriminator)
    for step in range(2):
        halves = [batch(10 * step), batch(10 * step + 1)]
        mine = halves if world == 1 else [halves[rank]]
        generator_step(generator, discriminator, perceptual, optimizers[0], mine, ALL)
        discriminator_step(generator, discriminator, optimizers[1], mine, ALL)
    results[rank] = {name: value.numpy() for name, value in (snapshot(generator) | snapshot(discriminator)).items()}
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    """Gradients are averaged between processes; BatchNorm sees each process's own images, as in the original.

    One process that takes the two halves as micro-batches therefore does the same, to rounding.
    """
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_train_two_steps, (2, tmp_path / "group", results), nprocs=2)
        both = {rank: dict(results[rank]) for rank in (0, 1)}
        _train_two_steps(0, 1, None, results)
        alone = dict(results[0])
    start = {name: value.numpy() for network in networks(7)[:2] for name, value in snapshot(network).items()}
    for name, value in alone.items():
        assert (both[0][name] == both[1][name]).all(), name
        # Adam moves every weight by about its learning rate, so equality is judged against that stride. A bias before
        # a BatchNorm has no gradient but rounding noise, which Adam turns into strides of random sign.
        if not name.endswith(".0.bias"):
            stride = abs(value - start[name]).max()
            assert abs(both[0][name] - value).max() < 0.02 * stride + 1e-7, name


def _overflow_on_one(rank, world, file, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    generator = networks(8)[0]
    optimizer, scaler = adam(generator), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    one = batch(rank)
    for overflows in (True, False):
        image = one.image * float("inf") if overflows and rank == 1 else one.image
        generator_step(
            generator, None, None, optimizer, [Batch(image, one.mask)], replace(NONE, l1_known=1.0),
            precision="float16", scaler=scaler,
        )  # fmt: skip
        if overflows:  # infinite activations have reached the running statistics of this one process
            generator.load_state_dict(networks(8)[0].state_dict())
    results[rank] = {name: value.numpy() for name, value in snapshot(generator).items()} | {"s": scaler.get_scale()}
    dist.destroy_process_group()


def test_an_overflow_in_one_process_is_skipped_by_all(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_overflow_on_one, (2, tmp_path / "group", results), nprocs=2)
        first, second = dict(results[0]), dict(results[1])
    assert first.pop("s") == second.pop("s") == 2.0**15
    for name, value in first.items():
        assert np.isfinite(value).all() and (value == second[name]).all(), name
