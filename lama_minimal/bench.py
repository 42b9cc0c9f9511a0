"""How fast, how large, how exact: every figure is a ratio of runs that took turns in one command.

A shared machine is never quiet, so times alone say little. Here contenders take turns, round after round; what disturbs
one disturbs the other, and medians of many turns are compared. The machine's own best rate in a plain convolution is
measured in the same turns: the time that the network's multiply-adds would take at that rate is the floor.
"""

import json
import math
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lama_minimal import gradients, winograd
from lama_minimal.authors import load_reference
from lama_minimal.checkpoint import TrainingState, pick_device
from lama_minimal.config import PRESETS, UserError
from lama_minimal.data import Batch, Files, TrainingData, augment, collate
from lama_minimal.evaluate import photographs
from lama_minimal.fast import FastGenerator
from lama_minimal.inference import Inpainter, computes_in_bfloat16
from lama_minimal.masks import draw_mask, recipe_for
from lama_minimal.memory import LARGE_PAGES, freed_memory_kept
from lama_minimal.models import build_generator, generator_input
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder
from lama_minimal.receptive_field import calibrate
from lama_minimal.reference import Reference
from lama_minimal.shards import Shards
from lama_minimal.steps import PRECISIONS, discriminator_step, generator_step
from lama_minimal.viz import PALETTE, draw_bars, method_colours, style

Row = dict[str, Any]
"""One line of a table: what was measured, and its numbers."""

Ask = Callable[..., Any]
"""Carries out a task with its arguments, perhaps in another process, and gives what it returns."""

PARTS = ("inference", "training", "profile", "strategy", "memory", "feeding", "shards", "growth")


# ------------------------------------------------------------------------------------------------------- taking turns


@dataclass(frozen=True)
class Turns:
    """What each of one contender's turns took: seconds, or bytes."""

    turns: list[float]

    @property
    def median(self) -> float:
        """Half of the turns took less."""
        return statistics.median(self.turns)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the turns took less than the first, a quarter more than the second."""
        low, _, high = statistics.quantiles(self.turns, n=4) if len(self.turns) > 1 else [self.turns[0]] * 3
        return low, high


def take_turns(contenders: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Turns]:
    """Time contenders in turns; a first round warms up. On a GPU its own clock is read."""

    def timed(run: Callable[[], object]) -> float:
        if device.type != "cuda":
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        run()
        events[1].record()
        torch.cuda.synchronize(device)
        return events[0].elapsed_time(events[1]) / 1000

    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            seconds = timed(run)
            if turn:
                turns[name].append(seconds)
    return {name: Turns(seconds) for name, seconds in turns.items()}


def ratio(slow: Turns, fast: Turns) -> tuple[float, float, float]:
    """How many times faster ``fast`` is: median and quartiles of the ratios of neighbouring turns."""
    ratios = [a / b for a, b in zip(slow.turns, fast.turns, strict=True)]
    return statistics.median(ratios), *Turns(ratios).quartiles


class Convolution:
    """The plain convolution whose rate is the machine's: 3×3, 512 to 512 channels, at 64×64."""

    FLOPS = 2 * 512 * 512 * 9 * 64 * 64
    NAME = "conv GFLOP/s"

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Draw input and weights."""
        self.x = torch.randn(1, 512, 66, 66, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        self.weight = torch.randn(512, 512, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)

    def __call__(self) -> Tensor:
        """Run it once."""
        return F.conv2d(self.x, self.weight)

    def rate(self, timing: Turns) -> float:
        """Floating-point operations a second in the fastest quarter of the turns."""
        return self.FLOPS / timing.quartiles[0]


class MatrixProduct(Convolution):
    """The product of two square matrices in bfloat16: a GPU's best rate."""

    FLOPS = 2 * 8192**3
    NAME = "matrix GFLOP/s"

    def __init__(self, device: torch.device) -> None:
        """Draw both."""
        self.a, self.b = torch.randn(2, 8192, 8192, device=device, dtype=torch.bfloat16)

    def __call__(self) -> Tensor:
        """Run it once."""
        return self.a @ self.b


def roof_of(device: torch.device) -> Convolution:
    """What shows a device's best rate."""
    return MatrixProduct(device) if device.type == "cuda" else Convolution(device, torch.float32)


class _Operations(TorchDispatchMode):
    """Adds up by PyTorch's own formulas; its FlopCounterMode cannot follow the gradient of a gradient (R1)."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def count_operations(run: Callable[[], object]) -> float:
    """Floating-point operations (two for a multiply-add) of all convolutions in ``run``; transforms are left out."""
    with _Operations() as counter:
        run()
    return float(counter.total)


@contextmanager
def new_process(large_pages: bool) -> Iterator[Ask]:
    """A fresh process, which carries out what it is asked to: ``ask(task, *arguments)``, the task at a module's top.

    PyTorch reads once whether large tensors get large pages: filling has them, training and the authors' code do not.
    """
    before = os.environ.get(LARGE_PAGES)
    os.environ[LARGE_PAGES] = str(int(large_pages))
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield lambda task, *arguments: pool.submit(task, *arguments).result()
    finally:
        del os.environ[LARGE_PAGES]
        if before is not None:
            os.environ[LARGE_PAGES] = before


def peak_memory(task: Callable[..., object], *arguments: object, large_pages: bool = False) -> int:
    """Largest resident memory, bytes, of a fresh process that runs ``task``, which lies at the top of a module."""
    with new_process(large_pages) as ask:
        return ask(_measured, task, arguments)


def _measured(task: Callable[..., object], arguments: tuple) -> int:
    task(*arguments)
    status = Path("/proc/self/status")
    if status.exists():  # Linux; what getrusage tells there includes the parent process
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ----------------------------------------------------------------------------------------------------------- inference


def draw_weights(network: nn.Module, seed: int) -> nn.Module:
    """Weights by the formula of the golden numbers: entry k of the state dict comes from ``RandomState(seed + k)``."""
    drawn = {}
    for k, (name, tensor) in enumerate(network.state_dict().items()):
        random, shape = np.random.RandomState(seed + k), tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            values = np.zeros(shape)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            values = random.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = 0.1 * random.standard_normal(shape)
        else:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        drawn[name] = torch.from_numpy(np.asarray(values)).to(tensor.dtype)
    network.load_state_dict(drawn)
    return network.eval()


def benchmark_input(side: int, device: torch.device) -> Tensor:
    """A generator's input (1, 4, side, side): a photograph with a thick mask."""
    sample = photographs(side)[0]
    return generator_input(*collate([(sample.image, sample.mask)]).to(device))


def pair(preset: str, reference: Reference | None, device: torch.device) -> tuple[nn.Module | None, nn.Module]:
    """The authors' generator (``None`` without their code) and ours with the same weights, in evaluation mode.

    The weights are drawn by a formula. BatchNorm's statistics are then those of a photograph: otherwise activations
    grow from block to block until the sigmoid shows black and white only, and differences of one in 10⁷ grow as well.
    """
    x = benchmark_input(256, torch.device("cpu"))
    settings = PRESETS[preset].generator
    if reference is None:
        ours = draw_weights(build_generator(**asdict(settings)), 100)
        with torch.no_grad():
            calibrate(ours, x)
        return None, ours.to(device)
    theirs = draw_weights(reference.generator(settings.blocks), 100)
    with torch.no_grad():
        calibrate(theirs, x)
    return theirs.to(device), load_reference(theirs.state_dict(), "generator").to(device)


def measure_inference(
    preset: str, sides: Sequence[int], rounds: int, reference: Reference | None, device: torch.device
) -> Iterator[Row]:
    """Time and differences of all contenders for one picture of each size."""
    theirs, ours = pair(preset, reference, device)
    with tempfile.TemporaryDirectory() as scratch:
        for side in sides:
            x = benchmark_input(side, device)
            networks: dict[str, Callable[[Tensor], Tensor]] = {} if theirs is None else {"reference": theirs}
            networks |= {f"ours, {name}": FastGenerator(ours, PRECISIONS[name]) for name in precisions(device)}
            networks |= other_runtimes(ours, side, Path(scratch)) if device.type == "cpu" else {}
            roof = roof_of(device)
            with torch.no_grad():
                expected = (theirs or ours)(x)
                operations = count_operations(partial(ours, x))
                turns = {name: partial(network, x) for name, network in networks.items()}
                timings = take_turns({"roof": roof, **turns}, rounds, device)
                rate = roof.rate(timings["roof"])
                base = timings.get("reference")
                for name, network in networks.items():
                    difference = ((network(x) - expected) * x[:, 3:]).float()  # exported graphs compose themselves
                    yield {
                        "part": "inference", "model": preset, "side": side, "contender": name,
                        **_times(timings[name], base),
                        "floor": operations / rate, "times floor": timings[name].median * rate / operations,
                        "GFLOP/s": operations / timings[name].median / 1e9, roof.NAME: rate / 1e9,
                        "largest difference in the hole": difference.abs().max().item(),
                    }  # fmt: skip


def precisions(device: torch.device) -> list[str]:
    """What is worth measuring: without instructions for it, bfloat16 takes up to 18 times as long as float32."""
    return ["float32", "bfloat16"] if computes_in_bfloat16(device) else ["float32"]


def _times(timing: Turns, base: Turns | None) -> Row:
    """Seconds with spread, and the ratio to the reference with spread."""
    low, high = timing.quartiles
    row: Row = {"seconds": timing.median, "seconds low": low, "seconds high": high}
    if base is not None:
        row["ratio"], row["ratio low"], row["ratio high"] = ratio(base, timing)
    return row


def other_runtimes(generator: nn.Module, side: int, scratch: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """The same network in onnxruntime and OpenVINO, where they are installed."""
    from lama_minimal.export import export_onnx, onnxruntime_session, openvino_session

    path, threads = scratch / f"{side}.onnx", torch.get_num_threads()
    makers = {
        "onnxruntime": lambda: onnxruntime_session(path, threads),
        "OpenVINO": lambda: openvino_session(path, threads),
    }
    if "bfloat16" in precisions(torch.device("cpu")):
        makers["OpenVINO, bfloat16"] = lambda: openvino_session(path, threads, "bfloat16")
    found = {}
    try:
        export_onnx(generator, path, side, side)
    except UserError:
        return found
    for name, make in makers.items():
        try:
            session = make()
        except UserError:
            continue
        # The exported graph takes image and mask apart; the picture's known part is what the network reads.
        found[name] = partial(_run_session, session)
    return found


def _run_session(session: Callable[[np.ndarray, np.ndarray], np.ndarray], x: Tensor) -> Tensor:
    return torch.from_numpy(session(x[:, :3].numpy(), x[:, 3:].numpy()))


# ------------------------------------------------------------------------------------------------------------ training


def measure_training(
    preset: str, batch_sizes: Sequence[int], rounds: int, folder: Path | None, device: torch.device
) -> Iterator[Row]:
    """Time of a whole training step, every loss, at 256×256, with the authors' step beside ours.

    On a CPU each program has a process of its own, as its users have it: ours keeps freed memory, the authors' does
    not. The processes take turns.
    """
    gpu = device.type == "cuda"
    for size in batch_sizes:
        with ExitStack() as programs:
            asks: dict[str, Ask] = {}
            for theirs in (None,) if folder is None else (str(folder), None):
                ask = _here if gpu else programs.enter_context(new_process(large_pages=False))
                asks |= dict.fromkeys(ask(_prepare_steps, preset, size, theirs, str(device)), ask)
            roof = roof_of(device)
            steps = {name: partial(ask, _make_step, name) for name, ask in asks.items()}
            timings = take_turns({"roof": roof, **steps}, rounds, device)
            rate = roof.rate(timings.pop("roof"))
            for name, timing in timings.items():
                if gpu:
                    torch.cuda.reset_peak_memory_stats(device)
                operations = asks[name](_count_step, name)
                memory = {"GPU MiB": torch.cuda.max_memory_allocated(device) / 2**20} if gpu else {}
                yield {
                    "part": "training", "model": preset, "batch": size, "contender": name,
                    **_times(timing, timings.get("reference")), "images a second": size / timing.median,
                    "times floor": timing.median * rate / operations, "GFLOP/s": operations / timing.median / 1e9,
                    roof.NAME: rate / 1e9, **memory,
                }  # fmt: skip
            _STEPS.clear()


_STEPS: dict[str, Callable[[], object]] = {}
"""The training steps of this process, by contender."""
_KEPT = ExitStack()
"""What holds until this process ends."""


def _here(task: Callable[..., Any], *arguments: object) -> Any:
    """Ask this process."""
    return task(*arguments)


def _prepare_steps(preset: str, batch_size: int, folder: str | None, device: str) -> list[str]:
    """Make ready the steps of the authors' code in ``folder``, or ours; say which."""
    place = torch.device(device)
    samples = [(sample.image, sample.mask) for sample in photographs(256)]
    batch = collate([samples[index % len(samples)] for index in range(batch_size)])
    if folder is not None:
        steps = {"reference": _reference_step(preset, Reference(folder), batch, place)}
    else:
        steps = {}
        for precision in precisions(place):
            steps[f"ours, {precision}"] = our_step(preset, batch, place, precision)
            steps[f"ours, {precision}, new prediction"] = our_step(preset, batch, place, precision, reuse=False)
        if place.type == "cuda":
            steps["ours, bfloat16, compiled"] = our_step(preset, batch, place, "bfloat16", compiled=True)
        else:
            _KEPT.enter_context(freed_memory_kept())  # as train does, for as long as this process lives
    _STEPS.update(steps)
    return list(steps)


def _make_step(name: str) -> None:
    _STEPS[name]()


def _count_step(name: str) -> float:
    """Operations of a step, as many as the networks ask for: minimal filtering does with fewer, products take more."""
    usual = winograd.LEAST_PRODUCTS, gradients.LEAST_CHANNELS
    winograd.LEAST_PRODUCTS = gradients.LEAST_CHANNELS = math.inf
    try:
        return count_operations(_STEPS[name])
    finally:
        winograd.LEAST_PRODUCTS, gradients.LEAST_CHANNELS = usual


def _reference_step(preset: str, reference: Reference, batch: Batch, device: torch.device) -> Callable[[], object]:
    """The authors' step on one batch, in their precision and layout."""
    settings = PRESETS[preset]
    generator = draw_weights(reference.generator(settings.generator.blocks), 100).to(device).train()
    discriminator = draw_weights(reference.discriminator(), 600).to(device).train()
    encoder = draw_weights(reference.encoder(), 1000).to(device).train().requires_grad_(False)
    rates = settings.optimizer.generator_lr, settings.optimizer.discriminator_lr
    networks = generator, discriminator
    adams = [torch.optim.Adam(net.parameters(), lr) for net, lr in zip(networks, rates, strict=True)]
    step = reference.training_step(generator, discriminator, encoder, adams, settings.loss)
    image, mask = batch.to(device, False)
    return lambda: step(image, mask)


def our_step(
    preset: str, batch: Batch, device: torch.device, precision: str, reuse: bool = True, compiled: bool = False
) -> Callable[[], object]:
    """Our step on one batch, with the weights of the reference's formula where shapes matter only."""
    settings = PRESETS[preset]
    settings = replace(settings, perceptual=replace(settings.perceptual, network="scenes-segmentation"))
    state = TrainingState.create(settings, device)
    perceptual = _paper_perceptual().to(device, memory_format=torch.channels_last).compute_in(getattr(torch, precision))
    generator = torch.compile(state.generator) if compiled else state.generator
    micro = [batch.to(device, True)]

    def step() -> None:
        _, predictions = generator_step(
            generator, state.discriminator, perceptual, state.generator_optimizer, micro, settings.loss,
            precision=precision,
        )  # fmt: skip
        discriminator_step(
            generator, state.discriminator, state.discriminator_optimizer, micro, settings.loss,
            precision=precision, predictions=predictions if reuse else None,
        )  # fmt: skip

    return step


def _paper_perceptual() -> PerceptualNetwork:
    """The paper's loss network, a dilated ResNet50 in training mode, with random weights: time needs no others."""
    return PerceptualNetwork(ResNetEncoder(), batch_statistics=True)


# ------------------------------------------------------------------------------------------------------------- profile


def measure_profile(preset: str, batch_size: int, device: torch.device) -> Iterator[Row]:
    """What the time goes into: a picture of 512 pixels and a training step, by operation, in bfloat16 where it pays."""
    settings, samples, precision = PRESETS[preset].generator, photographs(256), precisions(device)[-1]
    network = FastGenerator(build_generator(**asdict(settings)).to(device), PRECISIONS[precision])
    batch = collate([(sample.image, sample.mask) for sample in (samples * batch_size)[:batch_size]])
    runs = {
        "side": (512, partial(network, benchmark_input(512, device))),
        "batch": (batch_size, our_step(preset, batch, device, precision)),
    }
    for what, (number, run) in runs.items():
        for name, seconds, share in own_times(run, device):
            times = {"seconds": seconds, "share": share}
            yield {"part": "profile", "model": preset, what: number, "contender": name, **times}


def own_times(run: Callable[[], object], device: torch.device, most: int = 10) -> list[tuple[str, float, float]]:
    """The operations (on a GPU: kernels) that take most of the second run: names, seconds, shares of all of them."""
    gpu = device.type == "cuda"
    run()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        run()
        if gpu:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == kind]
    own = {event.key: (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6 for event in events}
    longest = sorted(own.items(), key=lambda item: -item[1])[:most]
    return [(name, seconds, seconds / sum(own.values())) for name, seconds in longest]


# ------------------------------------------------------------------------------------------------- large photographs


def compact_hole(side: int, share: float = 0.05) -> np.ndarray:
    """A disc in the middle of a square picture, (side, side) bool, that covers ``share`` of it."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return x**2 + y**2 <= share * side**2 / np.pi


def measure_strategy(
    preset: str, side: int, rounds: int, reference: Reference | None, device: torch.device
) -> Iterator[Row]:
    """A large photograph with one compact hole: the network on all of it, and what a user gets without a choice."""
    theirs, ours = pair(preset, reference, device)
    image, hole = photographs(side)[0].image, compact_hole(side)
    exact, default = Inpainter(ours, device=device, precision="float32"), Inpainter(ours, device=device)
    x = generator_input(*collate([(image, hole)]).to(device))
    runs: dict[str, Callable[[], object]] = {}
    if theirs is not None:
        runs["reference, whole"] = torch.no_grad()(lambda: theirs(x))
    runs["ours, whole, float32"] = lambda: exact.fill(image, hole, strategy="whole")
    runs["ours, whole"] = lambda: default.fill(image, hole, strategy="whole")
    runs["ours, default"] = lambda: default.fill(image, hole)
    timings = take_turns(runs, rounds, device)
    base = timings.get("reference, whole", timings["ours, whole, float32"])
    for name, timing in timings.items():
        yield {"part": "strategy", "model": preset, "side": side, "contender": name, **_times(timing, base)}


def _fill_once(preset: str, side: int, contender: str, folder: str | None) -> None:
    """Fill one picture as a whole, in a process of its own."""
    settings = PRESETS[preset].generator
    if contender == "reference":
        network = Reference(folder).generator(settings.blocks).eval()
        with torch.no_grad():
            network(benchmark_input(side, torch.device("cpu")))
        return
    generator = build_generator(**asdict(settings))
    sample = photographs(side)[0]
    Inpainter(generator, device="cpu", precision=contender).fill(sample.image, sample.mask, strategy="whole")


def _step_once(preset: str, batch_size: int, contender: str, folder: str | None) -> None:
    """Make two training steps, in a process of its own."""
    sample, device = photographs(256)[0], torch.device("cpu")
    batch = collate([(sample.image, sample.mask)] * batch_size)
    if contender == "reference":
        step = _reference_step(preset, Reference(folder), batch, device)
        step(), step()
        return
    step = our_step(preset, batch, device, contender)
    with freed_memory_kept():
        step(), step()


def measure_memory(preset: str, sides: Sequence[int], rounds: int, folder: Path | None) -> Iterator[Row]:
    """Peak memory of a whole process that fills one picture as a whole, or trains with two, on a CPU."""
    jobs = [({"side": side}, _fill_once, side, side <= 1024) for side in sides]
    for where, task, number, compared in [*jobs, ({"batch": 2}, _step_once, 2, True)]:
        names = precisions(torch.device("cpu"))
        if folder is not None and compared:
            names = ["reference", *names]
        peaks = {name: Turns([]) for name in names}
        for _ in range(rounds if compared else 1):  # what the C library leaves unused between tensors is not the same
            for name, peak in peaks.items():
                large_pages = task is _fill_once and name != "reference"
                took = peak_memory(task, preset, number, name, folder and str(folder), large_pages=large_pages)
                peak.turns.append(took / 2**20)
        for name, peak in peaks.items():
            row: Row = {"part": "memory", "model": preset, **where, "contender": name, "MiB": peak.median}
            row["MiB low"], row["MiB high"] = peak.quartiles
            if "reference" in peaks:
                row["share of reference"] = peak.median / peaks["reference"].median
            yield row


# -------------------------------------------------------------------------------------------------------------- growth


def measure_growth(preset: str, sides: Sequence[int], rounds: int, device: torch.device) -> Iterator[Row]:
    """Time against the picture's side, of the network and of one layer's transforms alone."""
    generator = draw_weights(build_generator(**asdict(PRESETS[preset].generator)), 100).to(device)
    network = FastGenerator(generator, PRECISIONS[precisions(device)[-1]])
    channels = PRESETS[preset].generator.width * 3  # half of the global channels
    for side in sides:
        x, features = benchmark_input(side, device), torch.randn(1, channels, side // 8, side // 8, device=device)
        runs: dict[str, Callable[[], object]] = {
            "network": partial(network, x),
            "transforms": partial(_there_and_back, features),
        }
        for name, timing in take_turns(runs, rounds if side <= 1024 else 1, device).items():
            pixels = side**2 if name == "network" else (side // 8) ** 2
            law = pixels if name == "network" else pixels * np.log2(pixels)
            yield {
                "part": "growth", "model": preset, "side": side, "contender": name,
                **_times(timing, None), "nanoseconds per law": timing.median / law * 1e9,
            }  # fmt: skip


def _there_and_back(x: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])


def _train_some(steps: int) -> None:
    """One of several processes: train a small network, and print images a second of all of them."""
    from lama_minimal.train import leave_processes, train

    warm_up = 3
    settings = PRESETS["cpu"]
    settings = replace(settings, run=replace(settings.run, steps=warm_up + steps, evaluate_every=10**6))
    began = 0.0
    for record in train(settings, device="cpu"):
        if record.step == warm_up:
            began = time.perf_counter()
        if record.step == warm_up + steps - 1 and os.environ["RANK"] == "0":  # the last step evaluates
            images = (steps - 1) * int(os.environ["WORLD_SIZE"]) * settings.run.batch_size
            print(images / (time.perf_counter() - began))
    leave_processes()


def measure_processes(counts: Sequence[int], steps: int) -> Iterator[Row]:
    """Training speed of the preset ``cpu`` with several processes of one thread each, on this machine."""
    program = f"from lama_minimal.bench import _train_some; _train_some({steps})"
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            script = Path(scratch, "train_some.py")
            script.write_text(program)
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            environment = os.environ | {"OMP_NUM_THREADS": "1", LARGE_PAGES: "0"}
            done = subprocess.run([*command, str(script)], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise UserError(f"training with {count} processes failed: {done.stderr.strip()[-300:]}")
        rate = float(done.stdout.split()[-1])
        yield {"part": "growth", "model": "cpu", "processes": count, "contender": "training", "images a second": rate}


# ------------------------------------------------------------------------------------------------------------- feeding


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch and OpenCV compute on one core."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def measure_feeding(rounds: int) -> Iterator[Row]:
    """Samples a second that one core makes: from JPEG files of 512×680, decoded pictures, and built-in scenes."""
    rng, wide, each = np.random.default_rng(0), recipe_for("wide", 256), 8
    pictures = [cv2.resize(sample.image, (680, 512)) for sample in photographs(512)]
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        files = [Path(scratch, f"{index}.jpg") for index in range(len(pictures))]
        for path, picture in zip(files, pictures, strict=True):
            Image.fromarray(picture).save(path, quality=90)
        data = {"JPEG files": TrainingData(files, 256)}
        data |= {f"scenes, {size}": TrainingData([], size) for size in (64, 128, 256)}
        turn = {name: iter(range(10**9)) for name in data}

        def draw(name: str) -> None:
            for _ in range(each):
                data[name][next(turn[name])]

        def decoded() -> None:
            for picture in pictures + pictures[: each - len(pictures)]:
                augment(picture, 256, rng), draw_mask(wide, (256, 256), rng)

        runs: dict[str, Callable[[], object]] = {"decoded pictures": decoded}
        runs |= {name: partial(draw, name) for name in data}
        for name, timing in take_turns(runs, 3 * rounds, torch.device("cpu")).items():
            low, high = timing.quartiles
            yield {
                "part": "feeding", "contender": name, "samples a second": each / timing.median,
                "low": each / high, "high": each / low,
            }  # fmt: skip


def measure_shards(count: int, rounds: int, each: int = 500) -> Iterator[Row]:
    """The same photographs as single files and in tar shards: encoded ones read, and training samples made of them.

    "cold": the system was told to drop from memory what it has read of them; left out where it cannot be told.
    """
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        files, tars, size = _write_photographs(Path(scratch), count, each)
        kinds: dict[str, Files | Shards] = {"folder": Files(files), "shards": Shards("::".join(map(str, tars)))}
        orders = {name: images.order(np.random.default_rng(0)) for name, images in kinds.items()}
        samples = {name: TrainingData(images, 256) for name, images in kinds.items()}

        def read(name: str) -> int:
            for number in orders[name]:
                item = kinds[name][int(number)]
                if isinstance(item, Path):  # a member of a shard is there already
                    item.read_bytes()
            return count

        def draw(name: str) -> int:
            for number in range(100):
                samples[name][number]
            return 100

        for part, work in (("images", read), ("samples", draw)):
            for state in ("cold", "warm") if hasattr(os, "posix_fadvise") else ("warm",):
                rates: dict[str, list[float]] = {name: [] for name in kinds}
                for name in [*kinds] * rounds:
                    if state == "cold":
                        _drop_from_memory([*files, *tars])
                    began = time.perf_counter()
                    rates[name].append(work(name) / (time.perf_counter() - began))
                for name, values in rates.items():
                    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
                    yield {
                        "part": "shards", "contender": f"{name}, {state}", f"{part} a second": median,
                        f"{part} a second low": low, f"{part} a second high": high,
                        "megabytes a second": median * size / 1e6,
                    }  # fmt: skip


def _write_photographs(folder: Path, count: int, each: int) -> tuple[list[Path], list[Path], float]:
    """JPEG files of 512×680 pixels, shards of the same, and the mean size of one in bytes."""
    pictures = [cv2.resize(sample.image, (680, 512)) for sample in photographs(512)]
    files = []
    for number in range(count):
        files.append(folder / f"{number % 16:02d}" / f"{number:06d}.jpg")
        files[-1].parent.mkdir(exist_ok=True)
        shifted = np.roll(pictures[number % len(pictures)], 7 * number, axis=1)
        Image.fromarray(shifted).save(files[-1], quality=90)
    tars = []
    for first in range(0, count, each):
        tars.append(folder / f"{first // each:06d}.tar")
        with tarfile.open(tars[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for file in files[first : first + each]:
                tar.add(file, file.name)
    return files, tars, sum(file.stat().st_size for file in files) / count


def _drop_from_memory(paths: Sequence[Path]) -> None:
    """Have the system forget what it keeps of files in memory (POSIX)."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)  # only what is on the disk can be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


# -------------------------------------------------------------------------------------------------------------- report


def line(row: Row) -> str:
    """A row as one line of text."""
    where = [
        str(row.get("model", "")),
        *(f"{name} {row[name]}" for name in ("side", "batch", "processes") if name in row),
    ]
    what = " ".join(part for part in (row["part"], *where) if part)
    numbers = {name: value for name, value in row.items() if isinstance(value, float) and "low" not in name}
    shown = []
    for name, value in numbers.items():
        if name.endswith(" high"):
            continue
        spread = f" ({row[f'{name} low']:.3g} … {row[f'{name} high']:.3g})" if f"{name} low" in row else ""
        shown.append(f"{name} {value:.3g}{spread}")
    return f"{what:38} {row['contender']:26} " + "; ".join(shown)


COLOURS = method_colours(
    ["ours, float32", "ours, bfloat16", "onnxruntime", "OpenVINO", "OpenVINO, bfloat16", "transforms", "network"]
) | {"reference": PALETTE["grey"]}
"""Of each contender, the same in all panels."""


def save_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw what can be drawn of the rows: ratios, memory, growth."""
    with plt.rc_context(style()):
        figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
        _draw_ratios(axes[0], [row for row in rows if row["part"] == "inference" and row.get("ratio", 1) != 1])
        memory = [row for row in rows if row["part"] == "memory" and "side" in row]
        _draw_curves(axes[1], memory, "MiB", "peak memory of the process, MiB")
        growth = [row for row in rows if row["part"] == "growth" and "side" in row]
        _draw_curves(axes[2], growth, "seconds", "seconds, default precision")
        for axis in axes:
            axis.set_visible(axis.has_data())
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _draw_ratios(axis: Axes, rows: Sequence[Row]) -> None:
    """Bars: how many times faster than the reference, with quartiles."""
    if not rows:
        return
    groups: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:  # without the reference itself, which is 1
        group = groups.setdefault(f"{row['side']}²", {})
        group[row["contender"]] = row["ratio"], row["ratio low"], row["ratio high"]
    draw_bars(axis, groups, {row["contender"]: COLOURS.get(row["contender"], PALETTE["black"]) for row in rows})
    axis.set_ylabel("times as fast as the authors' code")
    axis.set_ylim(0, 1.35 * axis.get_ylim()[1])  # room for the legend
    axis.legend(fontsize=7, ncols=2, loc="upper left")


def _draw_curves(axis: Axes, rows: Sequence[Row], name: str, label: str) -> None:
    """A number against the picture's side, both logarithmic; a dashed line that grows with the pixels."""
    if not rows:
        return
    for contender in dict.fromkeys(row["contender"] for row in rows):
        points = sorted((row["side"], row[name]) for row in rows if row["contender"] == contender)
        name_elsewhere = f"ours, {contender}" if contender in ("float32", "bfloat16") else contender
        axis.loglog(*zip(*points, strict=True), "o-", label=name_elsewhere, color=COLOURS.get(name_elsewhere))
    sides = sorted({row["side"] for row in rows})
    most = max(row[name] for row in rows if row["side"] == sides[-1])
    axis.loglog(sides[-3:], [most * (side / sides[-1]) ** 2 for side in sides[-3:]], "k--", lw=1, label="∝ pixels")
    axis.set_xticks(sides, [f"{side}²" for side in sides], minor=False)
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bottom, top = axis.get_ylim()
    few = top < 100 * bottom  # powers of ten alone would be too few numbers
    axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if few and f"{value:g}"[0] in "25" else "")
    axis.set_ylabel(label)
    axis.legend(fontsize=7)


def machine() -> Row:
    """What this was measured on."""
    facts: Row = {
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def bench(
    preset: str = "lama-fourier",
    parts: Sequence[str] = PARTS,
    reference: Path | None = None,
    rounds: int = 7,
    device: str | None = None,
    out: Path | None = None,
    progress: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Run parts of the benchmark.

    Args:
        preset: whose generator, ``lama-fourier`` or ``big-lama``.
        parts: some of :data:`PARTS`.
        reference: a checkout of the authors' code; None = without comparison.
        rounds: turns of each contender; fewer for what takes long.
        device: where to compute; None = a GPU if there is one.
        out: JSON file for the rows, written after each part; a picture is drawn beside it.
        progress: called with each row.

    Raises:
        UserError: an unknown part or preset, or ``reference`` is no checkout.
    """
    if unknown := set(parts) - set(PARTS):
        raise UserError(f"unknown part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}")
    if preset not in ("lama-fourier", "big-lama"):
        raise UserError(f"the authors' code is compared for lama-fourier and big-lama, not for {preset}")
    place, theirs = pick_device(device), None if reference is None else Reference(reference)
    gpu = place.type == "cuda"
    batch_sizes = (10, 30) if gpu else (2,)
    work: dict[str, Callable[[], list[Iterable[Row]]]] = {
        "inference": lambda: [
            measure_inference(preset, (256, 512, 1024, 2048) if gpu else (256, 512, 1024), rounds, theirs, place)
        ],
        "training": lambda: [measure_training(preset, batch_sizes, rounds, reference, place)],
        "profile": lambda: [measure_profile(preset, 10 if gpu else 2, place)],
        "strategy": lambda: [measure_strategy(preset, 2048, max(1, rounds // 3), theirs, place)],
        "memory": lambda: [measure_memory(preset, (256, 512, 1024, 2048, 4096), rounds, reference)],
        "feeding": lambda: [measure_feeding(rounds)],
        "shards": lambda: [measure_shards(4000, rounds)],
        "growth": lambda: [
            measure_growth(preset, (256, 512, 1024, 2048, 4096), rounds, place),
            measure_processes((1, 2, 4), 12),
        ],
    }
    rows: list[Row] = []
    for part in parts:
        for row in (row for rows_of in work[part]() for row in rows_of):
            rows.append(row)
            progress(row)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    if out is not None:
        save_figure(rows, out.with_suffix(".png"))
    return rows
