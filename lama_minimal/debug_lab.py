"""The debug lab: six broken trainings, to be told apart by their symptoms (chapter 09).

A small but complete training program is put together from six **parts**, each a short function. A **patient** is that
program with one part replaced by a really broken one, one or two lines away from the healthy one, as real bugs are.
The patients were trained; what they showed is a **record**, a JSON file a run, and a sheet of fillings.

    parts      HEALTHY, BROKEN, PATIENTS (the letters), patient("A")
    program    train_lab(parts, seed, steps): a short run is the beginning of a long one
    symptoms   MEASUREMENTS, read_records(), separation(records): which measurement separates whom
    diagnosis  Prediction, judge_prediction: what would a new run show, with this part mended?
    mends      judge_mend(part, function): by what the function does

A diagnosis is judged by what it predicts, a mend by what it does; neither by words.
``python -m lama_minimal.debug_lab record --out DIR`` trains everything anew, run by run, where a record is missing.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lama_minimal import losses
from lama_minimal.checkpoint import load_loss_network
from lama_minimal.config import LossSettings, UserError, preset, suggest
from lama_minimal.data import Batch, EvaluationSample, TrainingData, evaluation_set
from lama_minimal.fourier import FourierUnit, project_hermitian
from lama_minimal.models import Discriminator, FourierGenerator, composite
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder
from lama_minimal.steps import Terms, generator_step
from lama_minimal.viz import grid, overlay_mask

SIZE, BATCH, STEPS = 32, 8, 90
"""Side of the pictures, pictures of a batch, updates of a run."""

EXAMINED = (10, 20, 40, 60, 90)
"""Steps after which a run is evaluated and examined."""

DECAY = 0.9
"""Of the moving average of the generator's weights: short, since the runs are short."""

EVERY = 3
"""A record keeps the loss terms of every so many steps."""

SEEDS, HELD_BACK = (0, 1), 2
"""Seeds of the runs that learners are shown, and of the one that is kept to judge by."""

LARGER = 32
"""How many times as wide and high a picture the Fourier units are tried on, too: 1024 pixels."""

RECORDS = Path(__file__).parent / "records" / "debug_lab"
WEIGHTS: LossSettings = preset("cpu").loss


# --------------------------------------------------------------------------------------------------- the healthy parts


@dataclass
class Networks:
    """What a run trains and asks."""

    generator: FourierGenerator
    discriminator: Discriminator
    perceptual: PerceptualNetwork
    average: AveragedModel


def to_batch(images: Tensor, masks: Tensor) -> Batch:
    """Make numbers of bytes: images (B, H, W, 3) uint8 and masks (B, H, W) bool, True = hole."""
    return Batch(images.permute(0, 3, 1, 2).float() / 255, masks[:, None].float())


def shown(image: Tensor, mask: Tensor) -> Tensor:
    """What the generator is shown of a batch, (B, 4, H, W)."""
    return torch.cat([image * (1 - mask), mask], dim=1)


def generator_gradients(networks: Networks, batch: Batch, given: Tensor) -> tuple[Terms, Tensor]:
    """The generator's five losses and their gradients; the discriminator's own stay as they are."""
    networks.discriminator.requires_grad_(False)
    prediction = networks.generator(given)
    terms = generator_losses(networks, batch, prediction)
    sum(terms.values()).backward()
    networks.discriminator.requires_grad_(True)
    return terms, prediction.detach()


fourier = FourierUnit.forward
"""Run a Fourier unit, as the package does: map (B, C, H, W) to (B, C, H, W)."""


def predict(network: nn.Module, given: Tensor) -> Tensor:
    """What a network predicts when it is evaluated, now and then in the midst of training."""
    network.eval()
    with torch.no_grad():
        prediction = network(given)
    network.train()
    return prediction


def best(generator: nn.Module, average: AveragedModel) -> nn.Module:
    """The network to evaluate and to save; ``average`` holds the moving average of the generator's weights."""
    return average.module


@dataclass(frozen=True)
class Parts:
    """What a training program is put together from."""

    to_batch: Callable[[Tensor, Tensor], Batch] = to_batch
    shown: Callable[[Tensor, Tensor], Tensor] = shown
    generator_gradients: Callable[[Networks, Batch, Tensor], tuple[Terms, Tensor]] = generator_gradients
    fourier: Callable[[FourierUnit, Tensor], Tensor] = fourier
    predict: Callable[[nn.Module, Tensor], Tensor] = predict
    best: Callable[[nn.Module, AveragedModel], nn.Module] = best


HEALTHY = Parts()


# ---------------------------------------------------------------------------------------------------- the broken parts


def broken_to_batch(images: Tensor, masks: Tensor) -> Batch:
    """Make numbers of bytes: images (B, H, W, 3) uint8 and masks (B, H, W) bool, True = hole."""
    return Batch(images.permute(0, 3, 1, 2).float() / 127.5 - 1, masks[:, None].float())


def broken_shown(image: Tensor, mask: Tensor) -> Tensor:
    """What the generator is shown of a batch, (B, 4, H, W)."""
    return torch.cat([image * mask, mask], dim=1)


def broken_generator_gradients(networks: Networks, batch: Batch, given: Tensor) -> tuple[Terms, Tensor]:
    """The generator's five losses and their gradients; the discriminator's own stay as they are."""
    prediction = networks.generator(given)
    terms = generator_losses(networks, batch, prediction)
    sum(terms.values()).backward()
    return terms, prediction.detach()


def half(x: Tensor) -> Tensor:
    """What is left of a tensor, and of the gradient that comes back through it, in half precision."""
    return x.half().float()


def broken_fourier(unit: FourierUnit, x: Tensor) -> Tensor:
    """Run a Fourier unit: map (B, C, H, W) to (B, C, H, W)."""
    height, width = x.shape[-2:]
    root = (height * width) ** 0.5
    spectrum = half(torch.view_as_real(torch.fft.rfft2(half(x)))) / root  # sums first, then the norm, as cuFFT does
    spectrum = rearrange(spectrum, "b c h k part -> b (c part) h k")
    spectrum = F.relu(unit.norm(unit.conv(spectrum)))
    spectrum = rearrange(half(spectrum), "b (c part) h k -> b c h k part", part=2).contiguous()
    spectrum = project_hermitian(torch.view_as_complex(spectrum), width)
    return (half(torch.fft.irfft2(spectrum, s=(height, width), norm="forward")) / root).to(x.dtype)


def broken_predict(network: nn.Module, given: Tensor) -> Tensor:
    """What a network predicts when it is evaluated, now and then in the midst of training."""
    network.eval()
    with torch.no_grad():
        return network(given)


def broken_best(generator: nn.Module, average: AveragedModel) -> nn.Module:
    """The network to evaluate and to save; ``average`` holds the moving average of the generator's weights."""
    return generator


BROKEN: dict[str, Callable] = {
    "to_batch": broken_to_batch,
    "shown": broken_shown,
    "generator_gradients": broken_generator_gradients,
    "fourier": broken_fourier,
    "predict": broken_predict,
    "best": broken_best,
}
PATIENTS = dict(zip("ABCDEF", (list(BROKEN)[i] for i in (3, 1, 5, 0, 4, 2)), strict=True))
"""Letter → the part that is broken: the answers."""


def patient(letter: str) -> Parts:
    """The parts of a patient, or of the "healthy" program."""
    if letter == "healthy":
        return HEALTHY
    if letter not in PATIENTS:
        raise UserError(f"there is no patient {letter!r}; there are {', '.join(PATIENTS)}, and healthy")
    return replace(HEALTHY, **{PATIENTS[letter]: BROKEN[PATIENTS[letter]]})


# --------------------------------------------------------------------------------------------------------- the program
#
# Not the package's own steps: those clear gradients and freeze the discriminator themselves, so that a program built on
# them could not have the third of these bugs.


def generator_losses(networks: Networks, batch: Batch, prediction: Tensor) -> Terms:
    """The weighted losses of a prediction (B, 3, H, W)."""
    _, real_features = networks.discriminator(batch.image)
    fake_logits, fake_features = networks.discriminator(prediction)
    matching = losses.feature_matching(fake_features, [feature.detach() for feature in real_features])
    return {
        "l1": losses.l1(prediction, *batch, WEIGHTS.l1_known, WEIGHTS.l1_hole),
        "adversarial": WEIGHTS.adversarial * losses.adversarial_generator(fake_logits),
        "feature_matching": WEIGHTS.feature_matching * matching,
        "perceptual": WEIGHTS.perceptual * networks.perceptual(prediction, batch.image),
    }


def discriminator_gradients(networks: Networks, batch: Batch, prediction: Tensor) -> Terms:
    """The discriminator's losses; their gradients are added to what is there."""
    image = batch.image.detach().requires_grad_()
    real_logits, fake_logits = networks.discriminator(image)[0], networks.discriminator(prediction)[0]
    fake = losses.fake_target(batch.mask, fake_logits.shape[-2:], WEIGHTS.mask_target)
    terms = {
        "discriminator": losses.adversarial_discriminator(real_logits, fake_logits, fake),
        "r1": WEIGHTS.r1 * losses.r1_penalty(real_logits, image),
    }
    sum(terms.values()).backward()
    return terms


def build(parts: Parts, seed: int = 0) -> Networks:
    """Fresh networks of a run."""
    torch.manual_seed(seed)
    generator = FourierGenerator(width=12, blocks=2, downsamplings=2)
    discriminator = Discriminator(width=16, layers=3)
    for module in generator.modules():
        if isinstance(module, FourierUnit):
            module.forward = MethodType(parts.fourier, module)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    return Networks(generator, discriminator, load_loss_network("scenes-segmentation"), average)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Norm of the gradients that are there."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).item()


def running_statistics(network: nn.Module) -> Tensor:
    """BatchNorm's running means and variances, in one row."""
    return torch.cat([b.flatten() for b in network.buffers() if b.is_floating_point()])


def train_step(parts: Parts, networks: Networks, optimizers: Sequence[Adam], batch: Batch) -> dict[str, float]:
    """One update of both networks, as most programs have it: gradients are cleared once, at the top."""
    generator, discriminator = networks.generator, networks.discriminator
    for optimizer in optimizers:
        optimizer.zero_grad()
    before = running_statistics(generator).clone()
    terms, prediction = parts.generator_gradients(networks, batch, parts.shown(*batch))
    whole = gradient_norm(generator.parameters())
    units = [module.conv.weight for module in generator.modules() if isinstance(module, FourierUnit)]
    found = {
        "grad_norm": whole,
        "fourier_gradient": gradient_norm(units) / whole,
        "discriminator_gradient": gradient_norm(discriminator.parameters()),
        "statistics_moved": ((running_statistics(generator) - before).norm() / before.norm()).item(),
    }
    nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
    optimizers[0].step()
    terms |= discriminator_gradients(networks, batch, prediction)
    nn.utils.clip_grad_norm_(discriminator.parameters(), 1.0)
    optimizers[1].step()
    networks.average.update_parameters(generator)
    return {name: term.item() for name, term in terms.items()} | found


@dataclass
class Run:
    """What a run showed."""

    terms: list[dict[str, float]] = field(default_factory=list)
    """Of each step: weighted losses, gradient norms."""
    examined: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step → measurement → value."""
    sheet: np.ndarray | None = None
    """Fillings at the end: a row each of holes, fillings, originals; uint8."""


def train_lab(parts: Parts = HEALTHY, seed: int = 0, steps: int = STEPS) -> Run:
    """Train and examine a program on the CPU; the same parts and seed give the same steps, however many there are."""
    networks = build(parts, seed)
    optimizers = [Adam(networks.generator.parameters(), 2e-3), Adam(networks.discriminator.parameters(), 4e-4)]
    data = TrainingData([], SIZE, "none", "wide", seed=seed)
    samples = evaluation_set(None, 12, SIZE, "thick")
    run = Run()
    for step in range(1, steps + 1):
        chosen = [data[(step - 1) * BATCH + i] for i in range(BATCH)]
        batch = parts.to_batch(*(torch.from_numpy(np.stack(column)) for column in zip(*chosen, strict=True)))
        run.terms.append(train_step(parts, networks, optimizers, batch))
        if step in EXAMINED:
            run.examined[step] = examine(parts, networks, samples, run.terms[-5:])
    filled = fill(parts, parts.best(networks.generator, networks.average), samples)
    run.sheet = sheet(samples[:6], filled.written[:6])
    return run


# -------------------------------------------------------------------------------------------------------- examinations

MEASUREMENTS: dict[str, str] = {
    "l1": "weighted L1 term, mean of the last 5 steps",
    "adversarial": "weighted adversarial term, mean of the last 5 steps",
    "feature_matching": "weighted feature matching term, mean of the last 5 steps",
    "perceptual": "weighted perceptual term, mean of the last 5 steps",
    "discriminator": "loss of the discriminator, mean of the last 5 steps",
    "r1": "weighted gradient penalty of the discriminator, mean of the last 5 steps",
    "grad_norm": "norm of the generator's gradient before clipping, mean of the last 5 steps",
    "fourier_gradient": "share of the Fourier units' weights in that norm",
    "discriminator_gradient": "norm of the gradient that the generator's step leaves in the discriminator",
    "statistics_moved": "relative change of the generator's BatchNorm statistics in a training step",
    "hole_error": "error in the holes of held-out pictures, as evaluated; 0 to 1",
    "hole_error_blank": "the same where the holes were painted grey beforehand, as in real use",
    "leak": "hole_error_blank less hole_error: what the program knew of the holes",
    "hole_error_raw": "the same as hole_error, always with the weights of the last step",
    "hole_error_average": "the same as hole_error, always with the averaged weights",
    "known_error": "error of the raw prediction at known pixels, 0 to 1",
    "written_error": "error at known pixels of the picture that is written, 0 to 1",
    "contrast": "standard deviation of what fills the holes, over that of the originals there",
    "input_low": "smallest value that the generator is shown",
    "input_mean": "mean of the colours that the generator is shown",
    "mode_gap": "mean difference of predictions in training and in evaluation mode",
    "off_average": "relative distance of the evaluated weights from their moving average",
    "fourier_error": "relative difference of the Fourier units from float32",
    "not_finite": "share of values of the Fourier units that are not finite, in a picture of 1024 pixels",
}
"""Measurement → what it is, at the steps :data:`EXAMINED`. Those down to ``grad_norm`` come with any log."""


@dataclass(frozen=True)
class Filled:
    """What a program makes of held-out pictures; all but the first in [0, 1]."""

    given: Tensor
    """What the generator was shown, (B, 4, H, W)."""
    predicted: Tensor
    """(B, 3, H, W)."""
    written: Tensor
    """The composite, as a file of bytes would have it, (B, 3, H, W)."""


def pixels(samples: Sequence[EvaluationSample]) -> tuple[Tensor, Tensor]:
    """Pictures (B, H, W, 3) and masks (B, H, W) as they come from files: bytes and bool."""
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*((s.image, s.mask) for s in samples), strict=True))


def fill(parts: Parts, network: nn.Module, samples: Sequence[EvaluationSample], blank: bool = False) -> Filled:
    """Fill holes as the program does; ``blank`` paints them grey first, so that nobody can know what was there."""
    images, masks = pixels(samples)
    batch = parts.to_batch(torch.where(masks[..., None], 128, images).byte() if blank else images, masks)
    given = parts.shown(*batch)
    predicted = parts.predict(network, given)
    written = composite(predicted, *batch).clamp(0, 1).mul(255).round() / 255
    return Filled(given, predicted, written)


def examine(
    parts: Parts, networks: Networks, samples: Sequence[EvaluationSample], recent: Sequence[dict[str, float]]
) -> dict[str, float]:
    """Evaluate a program in training as it would itself, and look into it; values of all :data:`MEASUREMENTS`."""
    generator, average = networks.generator, networks.average
    evaluated = parts.best(generator, average)
    images, masks = pixels(samples)
    truth, hole = images.permute(0, 3, 1, 2) / 255, masks[:, None].expand(-1, 3, -1, -1)
    filled = fill(parts, evaluated, samples)

    def error(picture: Tensor, where: Tensor = hole) -> float:
        return (picture - truth).abs()[where].mean().item()

    reported, blank = error(filled.written), error(fill(parts, evaluated, samples, blank=True).written)
    found = {name: float(np.mean([terms[name] for terms in recent])) for name in recent[0]}
    found |= {
        "hole_error": reported,
        "hole_error_blank": blank,
        "leak": blank - reported,
        "hole_error_raw": error(fill(parts, generator, samples).written),
        "hole_error_average": error(fill(parts, average.module, samples).written),
        "known_error": error(filled.predicted, ~hole),
        "written_error": error(filled.written, ~hole),
        "contrast": (filled.written[hole].std() / truth[hole].std()).item(),
        "input_low": filled.given.min().item(),
        "input_mean": filled.given[:, :3].mean().item(),
        "off_average": distance(evaluated, average.module),
    }
    return found | look_inside(parts, generator, filled.given)


def distance(network: nn.Module, other: nn.Module) -> float:
    """Relative distance of two networks' weights."""
    ours, others = (nn.utils.parameters_to_vector(n.parameters()).detach() for n in (network, other))
    return ((ours - others).norm() / others.norm()).item()


@torch.no_grad()
def look_inside(parts: Parts, generator: FourierGenerator, given: Tensor) -> dict[str, float]:
    """Compare the generator's modes, and its Fourier units with float32; on a copy, which leaves the run alone."""
    twin = copy.deepcopy(generator)
    gap = (twin.train()(given) - copy.deepcopy(generator).eval()(given)).abs().mean().item()
    calls: list[tuple[FourierUnit, Tensor]] = []
    for module in twin.eval().modules():
        if isinstance(module, FourierUnit):
            module.register_forward_pre_hook(lambda unit, given: calls.append((unit, given[0][:4].clone())))
    twin(given)
    errors, finite = [], []
    for unit, x in calls:
        exact = FourierUnit.forward(unit, x)
        errors.append(((parts.fourier(unit, x) - exact).norm() / exact.norm()).item())
        finite.append(parts.fourier(unit, x.repeat(1, 1, LARGER, LARGER)).isfinite().float().mean().item())
    return {"mode_gap": gap, "fourier_error": float(np.mean(errors)), "not_finite": 1 - float(np.mean(finite))}


def sheet(samples: Sequence[EvaluationSample], written: Tensor) -> np.ndarray:
    """Holes, fillings and originals in three rows, one picture (uint8), to be enlarged where it is shown."""
    filled = (written.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    rows = [*(overlay_mask(s.image, s.mask) for s in samples), *filled, *(s.image for s in samples)]
    return grid(rows, len(samples))


# ------------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class Record:
    """What is kept of a run."""

    patient: str
    """"A" … "F", or "healthy"."""
    seed: int
    steps: list[int]
    """Steps of which ``terms`` are kept."""
    terms: dict[str, list[float]]
    """Weighted losses, gradient norms and the like, by name."""
    measurements: dict[str, list[float]]
    """Values at the steps :data:`EXAMINED`, by name."""

    def at(self, measurement: str, step: int = STEPS) -> float:
        """A measurement's value after ``step`` steps."""
        return self.measurements[measurement][EXAMINED.index(step)]


def record_run(letter: str, seed: int, out: Path) -> None:
    """Train a patient and write its record, and of the first seed a sheet of fillings."""
    run = train_lab(patient(letter), seed)

    def short(values: Iterable[float]) -> list[float]:
        return [float(f"{value:.4g}") for value in values]

    kept = run.terms[EVERY - 1 :: EVERY]
    record = Record(
        letter,
        seed,
        list(range(EVERY, STEPS + 1, EVERY)),
        {name: short(terms[name] for terms in kept) for name in kept[0]},
        {name: short(found[name] for found in run.examined.values()) for name in MEASUREMENTS},
    )
    out.mkdir(parents=True, exist_ok=True)
    if seed == SEEDS[0]:
        Image.fromarray(run.sheet).save(out / f"{letter}.jpg", quality=85, subsampling=0)
    new = out / f"{letter}-s{seed}.new"
    new.write_text(json.dumps(asdict(record)) + "\n")
    new.replace(new.with_suffix(".json"))


def read_records(folder: Path = RECORDS) -> list[Record]:
    """The records of a folder: patients in the letters' order, the healthy program first.

    Raises:
        UserError: none there, or a damaged one.
    """
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (not path.name.startswith("healthy"), path.name)):
        try:
            found.append(Record(**json.loads(path.read_text())))
        except (ValueError, TypeError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and record it again") from error
    if not found:
        raise UserError(f"no records in {folder}: python -m lama_minimal.debug_lab record --out {folder}")
    return found


@dataclass(frozen=True)
class Separation:
    """Which measurement separates whom: two ranges over seeds whose gap is at least as wide as the wider of them.

    With few seeds and many measurements one or the other separates by chance; a reason makes the difference.
    """

    ranges: dict[str, dict[str, tuple[float, float]]]
    """Measurement → patient → (lowest, highest) over seeds."""

    def apart(self, one: str, other: str) -> list[str]:
        """The measurements that separate two patients."""
        return [name for name, ranges in self.ranges.items() if _apart(ranges[one], ranges[other])]

    def alone(self, one: str) -> list[str]:
        """The measurements that separate a patient from all others, the healthy program included."""
        others = [other for other in next(iter(self.ranges.values())) if other != one]
        return [name for name in self.ranges if all(name in self.apart(one, other) for other in others)]

    def markdown(self) -> str:
        """Ranges, a row a measurement; bold where they separate a patient from the healthy program."""
        patients = list(next(iter(self.ranges.values())))
        lines = [f"| measurement | {' | '.join(patients)} |", "|---" * (len(patients) + 1) + "|"]
        for name, ranges in self.ranges.items():
            cells = []
            for who in patients:
                low, high = (f"{value:.3g}" for value in ranges[who])
                cell = low if low == high else f"{low} … {high}"
                cells.append(f"**{cell}**" if _apart(ranges[who], ranges["healthy"]) else cell)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    gap = max(other[0] - one[1], one[0] - other[1])
    return gap > 0 and gap >= max(one[1] - one[0], other[1] - other[0])


def separation(records: Sequence[Record], step: int = STEPS) -> Separation:
    """Ranges of all measurements after ``step`` steps, over the seeds of each patient."""
    names, patients = records[0].measurements, dict.fromkeys(record.patient for record in records)
    values = {
        name: {who: [r.at(name, step) for r in records if r.patient == who] for who in patients} for name in names
    }
    return Separation({name: {who: (min(v), max(v)) for who, v in of.items()} for name, of in values.items()})


# ----------------------------------------------------------------------------------------------------------- diagnosis


@dataclass(frozen=True)
class Prediction:
    """A diagnosis: with ``part`` mended, and nothing else changed, ``measurement`` falls into ``low`` … ``high``."""

    part: str
    measurement: str
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value is as predicted."""
        return self.low <= value <= self.high


def judge_prediction(letter: str, prediction: Prediction, records: Sequence[Record] | None = None) -> str:
    """Why a prediction fails; "" if it holds for every mended run and for no other run of the patient.

    The mended runs are known: whoever mends the broken part of a patient has the healthy program, and whoever mends
    another part still has the patient.

    Args:
        letter: the patient.
        prediction: at the last step.
        records: of all seeds, those held back included; ``None`` = those that ship.

    Raises:
        UserError: no such patient, part or measurement.
    """
    for name, known in ((letter, PATIENTS), (prediction.part, BROKEN), (prediction.measurement, MEASUREMENTS)):
        if name not in known:
            raise UserError(f"there is no {name!r}; {suggest(name, known)}")
    values: dict[str, list[float]] = {"healthy": [], letter: []}
    for record in read_records() if records is None else records:
        if record.patient in values:
            values[record.patient].append(record.at(prediction.measurement))
    if any(prediction.holds(value) for value in values[letter]):
        return f"{letter} is in that range as it is, unmended: this predicts no change"
    mended = values["healthy" if PATIENTS[letter] == prediction.part else letter]
    missed = [value for value in mended if not prediction.holds(value)]
    return f"with {prediction.part} mended, a run gives {prediction.measurement} = {missed[-1]:.3g}" if missed else ""


# --------------------------------------------------------------------------------------------------------------- mends


def judge_mend(part: str, function: Callable) -> list[str]:
    """What is still wrong with a part, by what it does; nothing if it is mended.

    Raises:
        UserError: no such part.
    """
    if part not in JUDGES:
        raise UserError(f"there is no part {part!r}; {suggest(part, JUDGES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(JUDGES[part](function))


def judge_to_batch(mended: Callable) -> Iterator[str]:
    """Colours are bytes / 255, whatever the picture; the mask is 1 in the hole."""
    images = torch.randint(40, 200, (2, 8, 12, 3), dtype=torch.uint8)  # neither black nor white: no own range to use
    masks = torch.rand(2, 8, 12) < 0.3
    image, mask = mended(images, masks)
    if not _equal(image, images.permute(0, 3, 1, 2) / 255):
        yield f"bytes 40 … 199 became {image.min():.3g} … {image.max():.3g}, not {40 / 255:.3g} … {199 / 255:.3g}"
    if not _equal(mask, masks[:, None].float()):
        yield "the mask is not (B, 1, H, W) with 1 = hole and 0 = known"


def judge_shown(mended: Callable) -> Iterator[str]:
    """Known pixels as they are, black in the hole, then the mask."""
    image, mask = torch.rand(2, 3, 8, 12), (torch.rand(2, 1, 8, 12) < 0.3).float()
    given = mended(image.clone(), mask.clone())
    if given.shape != (2, 4, 8, 12):
        yield f"the generator reads 3 + 1 channels, not {tuple(given.shape)}"
        return
    if not _equal(given, mended(torch.where(mask > 0, 1 - image, image), mask.clone())):
        yield "what the generator is shown depends on what is in the hole"
    if not _equal(given[:, :3] * (1 - mask), image * (1 - mask)):
        yield "known pixels are not shown as they are"
    if (given[:, :3] * mask).abs().max() > 0:
        yield "the hole is not black"
    if not _equal(given[:, 3:], mask):
        yield "the fourth channel is not the mask, 1 = hole"


def judge_generator_gradients(mended: Callable) -> Iterator[str]:
    """The package's own gradients for the generator, and none for the discriminator."""
    generator, encoder = FourierGenerator(4, 1, 2), ResNetEncoder((1, 1, 1, 1), False, 8, (8, 8, 8))
    networks = Networks(generator, Discriminator(8, 2), PerceptualNetwork(encoder), AveragedModel(generator))
    batch = Batch(torch.rand(2, 3, SIZE, SIZE), (torch.rand(2, 1, SIZE, SIZE) < 0.3).float())
    twin = copy.deepcopy(networks)
    still = SGD(twin.generator.parameters(), lr=0.0)
    generator_step(twin.generator, twin.discriminator, twin.perceptual, still, [batch], WEIGHTS, clip=float("inf"))
    _, prediction = mended(networks, batch, shown(*batch))
    wanted, got = (
        torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in g.parameters()])
        for g in (twin.generator, networks.generator)
    )
    if (got - wanted).norm() > 1e-3 * wanted.norm():
        yield f"the generator's gradient has norm {got.norm():.3g}; that of the five losses, {wanted.norm():.3g}"
    if (left := gradient_norm(networks.discriminator.parameters())) > 0:
        yield f"a gradient of norm {left:.3g} is left in the discriminator"
    if distance(networks.discriminator, twin.discriminator) > 0:
        yield "the discriminator's weights were changed"
    if not all(parameter.requires_grad for parameter in networks.discriminator.parameters()):
        yield "the discriminator cannot learn afterwards"
    if prediction.requires_grad:
        yield "the prediction drags its graph along"


def judge_fourier(mended: Callable) -> Iterator[str]:
    """As in double precision, values and gradients, for odd sizes, bright pictures and small gradients."""
    unit = FourierUnit(4, 6).eval()
    nn.init.normal_(unit.norm.bias)
    exact = copy.deepcopy(unit).double()
    cases = {"a picture": torch.randn(2, 4, 16, 16), "odd sides": torch.randn(2, 4, 9, 15)}
    cases["large sums"] = 60 + torch.randn(2, 4, 48, 48)  # 60 · 48² is more than float16 holds
    cases["one odd side"] = torch.randn(2, 4, 9, 16)
    for name, x in cases.items():
        ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        value, want = mended(unit, ours), FourierUnit.forward(exact, theirs)
        slope = 1e-7 * torch.randn_like(want)
        (gradient,), (wanted,) = (
            torch.autograd.grad(value, ours, slope.float()),
            torch.autograd.grad(want, theirs, slope),
        )
        for what, one, other in (("values", value, want), ("gradients", gradient, wanted)):
            error = ((one - other).norm() / other.norm()).item()
            if not error < 1e-5:  # NaN is not, either
                yield f"{name}: {what} are off by {error:.2g} of their size"


def judge_predict(mended: Callable) -> Iterator[str]:
    """Evaluation mode inside, training mode afterwards, and nothing learned from the pictures."""
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    for _ in range(3):
        network(3 + torch.randn(4, 4, 8, 8))
    given, before = torch.randn(4, 4, 8, 8), running_statistics(network).clone()
    want = copy.deepcopy(network).eval()(given)
    prediction = mended(network, given)
    if not _equal(prediction, want):
        yield "the prediction is not that of evaluation mode: a picture's depends on its companions"
    if prediction.requires_grad:
        yield "the prediction drags its graph along"
    if not torch.equal(running_statistics(network), before):
        yield "BatchNorm's running statistics have moved"
    if not all(module.training for module in network.modules()):
        yield "the network is not back in training mode"


def judge_best(mended: Callable) -> Iterator[str]:
    """The averaged weights and statistics are used, and neither network is changed."""
    generator = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    for _ in range(3):
        generator(3 + torch.randn(4, 4, 8, 8))
        nn.utils.vector_to_parameters(torch.randn(343), generator.parameters())
        average.update_parameters(generator)
    given, twins = torch.randn(4, 4, 8, 8), copy.deepcopy((generator, average.module))
    chosen = copy.deepcopy(mended(generator, average)).eval()
    if not _equal(chosen(given), copy.deepcopy(twins[1]).eval()(given)):
        yield "what is evaluated is not the moving average, weights and statistics"
    for name, network, twin in zip(
        ("generator in training", "average"), (generator, average.module), twins, strict=True
    ):
        if any(not torch.equal(ours, before) for ours, before in zip(
            network.state_dict().values(), twin.state_dict().values(), strict=True
        )):  # fmt: skip
            yield f"the {name} was changed"


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.allclose(one, other, atol=1e-6)


JUDGES: dict[str, Callable[[Callable], Iterator[str]]] = {
    "to_batch": judge_to_batch,
    "shown": judge_shown,
    "generator_gradients": judge_generator_gradients,
    "fourier": judge_fourier,
    "predict": judge_predict,
    "best": judge_best,
}


# -------------------------------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """``record``: train all patients whose records are missing. ``table``: what separates whom, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m lama_minimal.debug_lab", description=main.__doc__)
    parser.add_argument("command", choices=("record", "table"))
    parser.add_argument("--out", type=Path, default=RECORDS, help="folder of the records")
    parser.add_argument("--patients", nargs="+", default=["healthy", *PATIENTS], help="healthy, A … F; all by default")
    given = parser.parse_args(arguments)
    try:
        if given.command == "table":
            print(separation(read_records(given.out)).markdown())
            return 0
        for letter, seed in product(given.patients, (*SEEDS, HELD_BACK)):
            patient(letter)
            if not (given.out / f"{letter}-s{seed}.json").is_file():
                began = time.process_time()
                record_run(letter, seed, given.out)
                print(f"{letter}, seed {seed}: {time.process_time() - began:.0f} s of a core", flush=True)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
