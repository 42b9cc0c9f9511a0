"""The ablation lab: the paper's Tables 2, 3 and 4 and its resolution figure, at a scale that anyone can rerun.

A **row** is a training run: settings, and the question that they answer. A **table** is rows and the **conditions**
under which all of them are tested: a mask recipe, a multiple of the training size, a perspective. Each row is trained
with several seeds and tested on the same pictures and holes; what comes out of one run is a **record**, a small JSON
file. Records say everything: :func:`table`, :func:`figure` and :func:`compare` need nothing else.

    DIR/runs/      checkpoints of the runs, shared between tables; to be thrown away at will
    DIR/networks/  loss networks that do not ship
    DIR/TABLE/     ROW-s0.json, ROW-s1.json, …, TABLE.md, TABLE.png, TABLE.jpg

A number has two uncertainties: other pictures would give another one (a bootstrap interval over pictures, paired where
rows are compared), and so would another seed (the spread over seeds). They are reported apart.
"""

import csv
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lama_minimal import metrics
from lama_minimal.checkpoint import SHIPPED, find, load_generator, load_loss_network, pick_device
from lama_minimal.classical import navier_stokes
from lama_minimal.config import PerceptualSettings, Settings, UserError, preset, suggest
from lama_minimal.data import EVALUATION_MASK, EVALUATION_SCENE, EvaluationSample, collate
from lama_minimal.distances import feature_distance
from lama_minimal.evaluate import JUDGE, LEVEL, MEASURES, RESAMPLES, SEED
from lama_minimal.masks import draw_mask, mask_area, recipe_for
from lama_minimal.metrics import bootstrap_interval
from lama_minimal.models import Generator, composite, count_parameters, generator_input
from lama_minimal.perceptual import PerceptualNetwork
from lama_minimal.pretext import ENCODERS, Task, pretrain, scene_classification, scene_segmentation
from lama_minimal.scenes import CLASSES, SCENE_CLASSES, STRUCTURED, draw_scene
from lama_minimal.train import train
from lama_minimal.viz import PALETTE, overlay_mask, save_sheet, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 10
"""Points of a training curve; the last checkpoint is written at each of them."""

SHOWN, SHOWN_FACTOR = 6, 2
"""Holes in a table's sheet of pictures, and their size, training sizes."""

TASKS = 1
"""Second number of the test pictures' seeds; 0 belongs to the pictures that runs are watched on."""

STRENGTHS = (0.0, 0.5, 1.0)
"""Perspective of the test scenes: 0 seen straight on, 1 the strongest."""

MEASURED = {name: MEASURES[name] for name in ("hole_error", "distance", "ssim", "gradient")}
"""What a record holds of each picture; of ``gradient`` the energies of filling and original."""


RECORDED = Path(__file__).parent / "records" / "ablations"
"""The results that ship: a folder for each scale, in it one for each table."""


# ----------------------------------------------------------------------------------------------------- rows and tables


@dataclass(frozen=True)
class Condition:
    """What rows are tested on: the same scenes and holes at any size."""

    masks: str
    """Recipe of the masks, drawn at the training size and enlarged with the picture."""
    factor: int = 1
    """Size of the pictures, training sizes."""
    perspective: float | None = None
    """Strength of the scenes' perspective, of those that can have any; ``None`` = as it comes."""

    def name(self, size: int) -> str:
        """Such as "thick 128" for rows trained at 64 pixels."""
        strength = "" if self.perspective is None else f" perspective {self.perspective:g}"
        return f"{self.masks} {size * self.factor}{strength}"


@dataclass(frozen=True)
class Row:
    """A training run, for each of several seeds."""

    name: str
    settings: Settings
    answers: str
    """The question, in words."""
    against: str = ""
    """Name of the row that it is compared with; none = the table's first."""


@dataclass(frozen=True)
class Table:
    """Rows, and the conditions under which all of them are tested."""

    name: str
    rows: tuple[Row, ...]
    conditions: tuple[Condition, ...]
    count: int = 40
    """Pictures of each condition."""

    def chosen(self, names: Sequence[str] | None) -> list[Row]:
        """The rows of these names, in the table's order; ``None`` = all.

        Raises:
            UserError: no row of that name.
        """
        known = {slug(row.name): row for row in self.rows}
        for name in names or ():
            if slug(name) not in known:
                raise UserError(f"table {self.name} has no row {name!r}; {suggest(slug(name), known)}")
        wanted = {slug(name) for name in names or known}
        return [row for name, row in known.items() if name in wanted]


def slug(name: str) -> str:
    """A row's name as part of a file's: "Fourier, narrow" → "fourier-narrow"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def changed(base: Settings, **parts: dict[str, Any]) -> Settings:
    """A copy of ``base`` with some fields of some parts changed: ``changed(base, generator=dict(blocks=6))``."""
    return replace(base, **{name: replace(getattr(base, name), **values) for name, values in parts.items()})


def differing(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings that are not the defaults: part → name → value."""
    ours, defaults = asdict(settings), asdict(Settings())
    parts = {
        part: {name: value for name, value in values.items() if value != defaults[part][name]}
        for part, values in ours.items()
    }
    return {part: values for part, values in parts.items() if values}


@dataclass(frozen=True)
class Scale:
    """What the tables' rows are derived from."""

    plain: Settings
    """Of the rows that compare generators and masks."""
    perceptual: Settings
    """Of the rows that compare loss networks; with the network of :data:`YARDSTICK`."""
    judged: Settings
    """Of the rows that concern the discriminator."""
    equal_width: int
    """Width at which regular and dilated generators have as many parameters as the Fourier one."""
    deep: int
    """Blocks of the deeper regular generator (the paper's: 15 for 9)."""
    steps: dict[str, int]
    """Updates of every row of a table; of ``beyond``, "judged" for the rows with a discriminator."""


_L1_AND_PERCEPTUAL = changed(preset("cpu"), loss=dict(adversarial=0.0, feature_matching=0.0, r1=0.0))
_NOTEBOOK = dict(
    generator=dict(width=16, blocks=3),
    data=dict(size=40),
    optimizer=dict(generator_lr=2e-3),
)
_GPU = changed(
    preset("gpu"),
    data=dict(size=128, augmentation="flip", workers=4),
    run=dict(sample_every=10_000),
)

SCALES: dict[str, Scale] = {
    # one thread, at most six core-minutes a run
    "cpu": Scale(
        plain=preset("demo"),
        perceptual=_L1_AND_PERCEPTUAL,
        judged=preset("cpu"),
        equal_width=19,
        deep=7,
        steps={"convolutions": 650, "masks": 650, "perceptual": 350, "blocks": 400, "beyond": 650, "judged": 300},
    ),
    # one thread, some fifteen seconds a run: what a chapter trains while the reader waits; too short for conclusions
    "notebook": Scale(
        plain=changed(preset("demo"), **_NOTEBOOK),
        perceptual=changed(_L1_AND_PERCEPTUAL, **_NOTEBOOK),
        judged=changed(preset("cpu"), **_NOTEBOOK),
        equal_width=13,
        deep=5,
        steps=dict.fromkeys(("convolutions", "masks", "perceptual", "blocks", "beyond", "judged"), 140),
    ),
    # one GPU, several runs at once; all five losses everywhere, as in the paper; untried so far
    "gpu": Scale(
        plain=_GPU,
        perceptual=_GPU,
        judged=_GPU,
        equal_width=37,
        deep=10,
        steps=dict.fromkeys(("convolutions", "masks", "perceptual", "blocks", "beyond", "judged"), 20_000),
    ),
}  # fmt: skip

RESOLUTIONS = tuple(Condition(masks, factor) for masks in ("thin", "thick") for factor in (1, 2, 4))
PERSPECTIVES = tuple(Condition("thick", perspective=strength) for strength in STRENGTHS)


def convolutions(scale: Scale) -> Table:
    """The paper's Table 2 and its resolution figure: which convolutions in the trunk."""
    base, width = changed(scale.plain, run=dict(steps=scale.steps["convolutions"])), scale.equal_width
    rows = (
        Row("Fourier", base, "the paper's generator"),
        Row("dilated", changed(base, generator=dict(convolution="dilated")), "a wide view without Fourier, as deep"),
        Row("regular", changed(base, generator=dict(convolution="regular")), "no wide view, as deep"),
        Row("dilated narrower", changed(base, generator=dict(convolution="dilated", width=width)), "as many numbers"),
        Row("regular narrower", changed(base, generator=dict(convolution="regular", width=width)), "as many numbers"),
        Row(
            "regular deeper",
            changed(base, generator=dict(convolution="regular", blocks=scale.deep)),
            "does depth make up for the view?",
        ),
    )
    return Table("convolutions", rows, RESOLUTIONS)


def masks(scale: Scale) -> Table:
    """The paper's Table 4: training on wide or narrow masks, tested on both."""
    rows = []
    for name, convolution in (("Fourier", "fourier"), ("regular", "regular")):
        for recipe in ("wide", "narrow"):
            settings = changed(
                scale.plain,
                generator=dict(convolution=convolution),
                data=dict(masks=recipe),
                run=dict(steps=scale.steps["masks"]),
            )
            narrow = "" if name == "Fourier" else "Fourier, narrow"  # rows that are compared differ in one thing
            against = f"{name}, narrow" if recipe == "wide" else narrow
            rows.append(Row(f"{name}, {recipe}", settings, f"trained on {recipe} masks", against))
    return Table("masks", tuple(rows), RESOLUTIONS)


def perceptual(scale: Scale) -> Table:
    """The paper's Table 3, with its regular generator: which loss network; and the Fourier base that it names."""
    base = changed(scale.perceptual, generator=dict(convolution="regular"), run=dict(steps=scale.steps["perceptual"]))

    def network(name: str, dilated: bool = True) -> Settings:
        return changed(base, perceptual=dict(network=name, dilated=dilated))

    rows = (
        Row("segmentation", base, "the paper's: dilated, learned to segment"),
        Row("classification", network("scenes-classification"), "does the pretext matter?"),
        Row("undilated", network("scenes-classification", False), "does its receptive field matter?"),
        Row("VGG-like", network("scenes-vgg"), "the usual base, learned to classify"),
        Row("Fourier base", network("scenes-fourier"), "a view of everything, learned to segment"),
        Row("none", changed(base, loss=dict(perceptual=0.0)), "does it matter at all?"),
    )
    return Table("perceptual", rows, RESOLUTIONS)


def blocks(scale: Scale) -> Table:
    """Table 2's other half: how deep a Fourier trunk."""
    base = changed(scale.plain, run=dict(steps=scale.steps["blocks"]))
    rows = tuple(Row(f"{n} blocks", changed(base, generator=dict(blocks=n)), "depth") for n in (4, 6, 9))
    return Table("blocks", rows, RESOLUTIONS)


def beyond(scale: Scale) -> Table:
    """What the paper did not ask: shortcuts in training, quality by the second, strong perspective."""
    judged = changed(scale.judged, run=dict(steps=scale.steps["judged"], reuse_prediction=False))
    hrf = perceptual(scale).rows[0].settings
    rows = [
        Row("new prediction", judged, "the discriminator judges the updated generator, as the paper's does"),
        Row("reused prediction", changed(judged, run=dict(reuse_prediction=True)), "a pass saved", "new prediction"),
        Row("batch statistics", hrf, "the loss network's BatchNorm as in the paper's training"),
        Row("running statistics", changed(hrf, perceptual=dict(batch_statistics=False)), "… or as it was trained",
            "batch statistics"),
    ]  # fmt: skip
    whole = scale.steps["beyond"]
    for share, steps in (("", whole), (", half", whole // 2), (", quarter", whole // 4)):
        base = changed(scale.plain, run=dict(steps=steps))
        fourier = f"Fourier{share}"
        rows.append(Row(fourier, base, "quality by the second", "Fourier" if share else f"regular{share}"))
        regular = changed(base, generator=dict(convolution="regular"))
        rows.append(Row(f"regular{share}", regular, "quality by the second", fourier))
    for name in ("Fourier", "regular"):
        base = changed(scale.plain, generator=dict(convolution=name.lower()), run=dict(steps=whole))
        settings = changed(base, data=dict(augmentation="perspective"))
        rows.append(Row(f"{name}, perspective", settings, "does it help to train on perspective?", name))
    return Table("beyond", tuple(rows), (*RESOLUTIONS[3:5], *PERSPECTIVES))


TABLES: dict[str, Callable[[Scale], Table]] = {
    table.__name__: table for table in (convolutions, masks, perceptual, blocks, beyond)
}


# ------------------------------------------------------------------------------------------------------ loss networks

YARDSTICK = PerceptualSettings("scenes-segmentation")
"""The loss network for which the weights of the perceptual loss are stated."""

NETWORKS: dict[str, tuple[Callable[[], Task], dict[str, Any], int]] = {
    "scenes-segmentation": (scene_segmentation, ENCODERS["dilated"], 0),
    "scenes-classification": (scene_classification, ENCODERS["dilated"], 0),
    "scenes-vgg": (scene_classification, ENCODERS["vgg"], 0),
    "scenes-fourier": (scene_segmentation, ENCODERS["fourier"], 0),
    JUDGE: (scene_segmentation, ENCODERS["vgg-small"], 1),
}
"""Name → what it learned, what it is made of, seed. Those that do not ship are trained when a row asks for them."""

PRETEXT_STEPS = 1000


def network_file(name: str, out: Path) -> Path:
    """Where a loss network is, or will be: in the package, or in ``out/networks``."""
    shipped = SHIPPED / f"{name}.safetensors"
    return shipped if shipped.is_file() else out / "networks" / shipped.name


def make_network(name: str, out: Path, steps: int = PRETEXT_STEPS) -> None:
    """Train a loss network unless it is there."""
    file = network_file(name, out)
    if not file.with_suffix(".json").is_file():  # written last
        task, shape, seed = NETWORKS[name]
        with one_thread():
            pretrain(file, task(), shape, steps, seed)


def fair_weight(settings: Settings, out: Path) -> float:
    """Weight that makes a loss network's term as large as that of the yardstick, on the same pairs of pictures.

    Networks differ in the size of their features by factors of tens. The paper searched a weight for each; here all
    get the weight at which smooth fillings (Navier–Stokes) cost as much as with the yardstick.
    """
    if settings.loss.perceptual == 0 or settings.perceptual == YARDSTICK:
        return settings.loss.perceptual
    tasks = draw_tasks(Condition("thick"), settings.data.size, 32)
    images, filled = (
        collate([(image, task.mask) for image, task in zip(pictures, tasks, strict=True)]).to("cpu").image
        for pictures in ([task.image for task in tasks], [navier_stokes(task.image, task.mask) for task in tasks])
    )

    def term(network: PerceptualSettings) -> float:
        loss = load_loss_network(**asdict(replace(network, network=str(network_file(network.network, out)))))
        with torch.no_grad():
            return loss(filled, images).item()

    weight = settings.loss.perceptual * term(YARDSTICK) / term(settings.perceptual)
    return float(f"{weight:.3g}")  # the same on machines that round differently


# -------------------------------------------------------------------------------------------------------------- tasks


def draw_tasks(condition: Condition, size: int, count: int) -> list[EvaluationSample]:
    """The pictures and holes of a condition: scene classes take turns.

    Args:
        condition: which.
        size: side of the training pictures, pixels.
        count: how many.
    """
    kinds = SCENE_CLASSES
    if condition.perspective is not None:
        kinds = tuple(name for name in kinds if name in STRUCTURED and CLASSES[name].perspective == (0.0, 1.0))
    recipe, samples = recipe_for(condition.masks, size), []
    for index in range(count):
        kind = kinds[index % len(kinds)]
        side = size * condition.factor
        image = draw_scene((EVALUATION_SCENE, TASKS, index), side, kind, condition.perspective).image
        mask = draw_mask(recipe, (size, size), np.random.default_rng((EVALUATION_MASK, TASKS, index)))
        mask = mask.repeat(condition.factor, axis=0).repeat(condition.factor, axis=1)
        samples.append(EvaluationSample(f"{index:02d}-{kind}", image, mask, kind))
    return samples


def shown_tasks(size: int) -> list[EvaluationSample]:
    """The holes of every sheet: structured scenes of different classes, holes not too small to see."""
    tasks = draw_tasks(Condition("thick", SHOWN_FACTOR), size, 2 * len(SCENE_CLASSES))
    large = [task for task in tasks if task.scene_class in STRUCTURED and mask_area(task.mask) >= 0.15]
    return list({task.scene_class: task for task in reversed(large)}.values())[::-1][:SHOWN]


@torch.no_grad()
def fill(generator: Generator, tasks: Sequence[EvaluationSample], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Batches of composites, images and masks, as many pixels each as eight pictures of 64 pixels, one at least."""
    each = max(1, 8 * 64**2 // tasks[0].mask.size)
    for first in range(0, len(tasks), each):
        batch = collate([(task.image, task.mask) for task in tasks[first : first + each]]).to(device)
        yield composite(generator(generator_input(*batch)), *batch), *batch


@torch.no_grad()
def score(
    generator: Generator, tasks: Sequence[EvaluationSample], judge: PerceptualNetwork, device: torch.device
) -> dict[str, list[float | None]]:
    """Every measure of every task, rounded for a record; a number that does not exist is None."""
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for filled, image, mask in fill(generator, tasks, device):
        columns["hole_error"].append(metrics.hole_error(filled, image, mask))
        columns["distance"].append(feature_distance(judge, filled, image))
        columns["ssim"].append(metrics.ssim(filled, image))
        columns["gradient"].append(metrics.gradient_energy(filled, mask))
        columns["gradient_original"].append(metrics.gradient_energy(image, mask))
    return {name: [_rounded(value) for value in torch.cat(parts).tolist()] for name, parts in columns.items()}


def _rounded(value: float) -> float | None:
    """Four significant digits; None for what JSON has no number for."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


# --------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """One row with one seed, as a process of its own takes it."""

    table: Table
    row: Row
    seed: int
    scale: str
    out: Path
    device: str | None

    @cached_property
    def settings(self) -> Settings:
        """What is trained: the row's settings with the seed, looked at and saved ten times on the way."""
        steps = self.row.settings.run.steps
        every = max(1, steps // POINTS)
        return changed(
            self.row.settings,
            data=dict(evaluation_images=20),
            run=dict(seed=self.seed, evaluate_every=every, save_every=every, sample_every=steps),
        )

    @property
    def folder(self) -> Path:
        """Of the checkpoints, named after the settings: equal rows of two tables share it."""
        digest = hashlib.sha256(json.dumps(differing(self.settings), sort_keys=True).encode()).hexdigest()
        return self.out / "runs" / digest[:12]

    @property
    def file(self) -> Path:
        """Of the record."""
        return self.out / self.table.name / f"{slug(self.row.name)}-s{self.seed}.json"

    @property
    def strip(self) -> Path:
        """Of the filled holes that the table's sheet shows, side by side."""
        return self.folder / "shown.png"

    def carry_out(self) -> Path:
        """Train, or go on with training, then score; return the record's file, which is left alone if it is there.

        Raises:
            KeyboardInterrupt: training was interrupted; what was done is saved.
        """
        if self.file.is_file():
            return self.file
        with one_thread():
            device = pick_device(self.device)
            self._train(device)
            generator = load_generator(self.folder).to(device)
            judge_file = network_file(JUDGE, self.out)
            judge = load_loss_network(str(judge_file), batch_statistics=False).to(device)
            size, count = self.settings.data.size, self.table.count
            scores = {
                condition.name(size): score(generator, draw_tasks(condition, size, count), judge, device)
                for condition in self.table.conditions
            }
            self._save_strip(generator, device)
        curve = read_curve(self.folder)
        record = Record(
            table=self.table.name,
            row=self.row.name,
            seed=self.seed,
            scale=self.scale,
            answers=self.row.answers,
            against=self.row.against or self.table.rows[0].name,
            size=size,
            steps=self.settings.run.steps,
            parameters=count_parameters(generator),
            seconds=curve["seconds"][-1],
            clock="CPU seconds of one thread" if device.type == "cpu" else "seconds, other runs on the same device",
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            torch=torch.__version__,
            commit=commit(),
            judge=hashlib.sha256(judge_file.read_bytes()).hexdigest()[:12],
            settings=differing(self.settings),
            curve=curve,
            scores=scores,
        )
        record.save(self.file)
        return self.file

    def _train(self, device: torch.device) -> None:
        """Go on from the last checkpoint, if it is not the end; keep the time that it takes."""
        settings, clock = self.settings, Clock(self.folder, device)
        run, noted = settings.run, [step for step, _ in clock.read()]
        if noted[-1:] == [run.steps] and steps_made(self.folder) == run.steps:
            return
        weight = fair_weight(settings, self.out)
        network = str(network_file(settings.perceptual.network, self.out))
        settings = changed(settings, loss=dict(perceptual=weight), perceptual=dict(network=network))
        for record in train(settings, self.folder, resume=True, device=str(device)):
            if record.step % run.save_every == 0 or record.step == run.steps:
                clock.note(record.step)
        if steps_made(self.folder) < run.steps:
            raise KeyboardInterrupt
        if not any(step == run.steps for step, _ in clock.read()):  # killed between checkpoint and note
            clock.note(run.steps)

    def _save_strip(self, generator: Generator, device: torch.device) -> None:
        pictures = torch.cat([filled for filled, _, _ in fill(generator, shown_tasks(self.settings.data.size), device)])
        array = (pictures.clamp(0, 1) * 255).round().byte().cpu().permute(2, 0, 3, 1).flatten(1, 2).numpy()
        Image.fromarray(array).save(self.strip)  # (S, 6 S, 3)


def steps_made(folder: Path) -> int:
    """Updates that the last checkpoint of a run has seen; 0 without one."""
    file = find(folder / "last") / "state.json"
    return json.loads(file.read_text())["step"] if file.is_file() else 0


class Clock:
    """Seconds of training, noted at every checkpoint, so that a run that was killed and resumed knows them."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Start; on a CPU only this process's work counts, whatever else the machine is doing."""
        self.file = folder / "clock.csv"
        self.now = time.process_time if device.type == "cpu" else time.perf_counter
        self.began, self.before = self.now(), None

    def note(self, step: int) -> None:
        """Write down the seconds at a step; those of work that was lost and is done again count once."""
        if self.before is None:
            self.before = [(at, seconds) for at, seconds in self.read() if at < step]
        seconds = self.now() - self.began + (self.before[-1][1] if self.before else 0.0)
        rows = [*self.before, (step, seconds)]
        self.began, self.before = self.now(), rows
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{at},{value:.3f}\n" for at, value in rows))
        os.replace(new, self.file)

    def read(self) -> list[tuple[int, float]]:
        """Steps and seconds so far."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(int(step), float(seconds)) for step, seconds in (line.split(",") for line in lines)]


def read_curve(folder: Path) -> dict[str, list[float | None]]:
    """A run's curve at its checkpoints: seconds, losses as means since the one before, errors on watched pictures."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = Clock(folder, torch.device("cpu")).read()
    terms = [name for name in rows[0] if name not in ("step", "learning_rate", "images_per_second")]
    curve: dict[str, list[float | None]] = {name: [] for name in ("step", "seconds", *terms)}
    before = 0
    for step, seconds in points:
        since = [row for row in rows if before < int(row["step"]) <= step]
        curve["step"].append(step)
        curve["seconds"].append(_rounded(seconds))
        for name in terms:
            values = [float(row[name]) for row in since if row[name]]
            curve[name].append(_rounded(np.mean(values)) if values else None)
        before = step
    return curve


def commit() -> str | None:
    """The commit of the checkout that this package lies in, "+" if something was changed; None outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True)
        name = subprocess.run([*git, "describe", "--always", "--dirty=+"], capture_output=True, text=True)
    except OSError:
        return None
    return name.stdout.strip() if tracked.returncode == name.returncode == 0 else None


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs beside each other use a core each, and on one thread they are repeatable whatever the machine's cores."""
    before, before_cv2 = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_cv2)


def ablate(
    table: Table,
    out: str | Path,
    seeds: int = 3,
    rows: Sequence[str] | None = None,
    scale: str = "cpu",
    jobs: int = 1,
    device: str | None = None,
    progress: Callable[["Record"], None] | None = None,
) -> list["Record"]:
    """Carry out the runs of a table; those that are finished are not done again, those that were killed go on.

    Args:
        table: what :data:`TABLES` makes of a :class:`Scale`, or any other.
        out: folder, see the top of this file.
        seeds: of each row, 0, 1, ….
        rows: names of the rows to do; ``None`` = all.
        scale: what the records call the scale.
        jobs: runs at once, each in a process of its own; more than one only pays with as many cores, or on a GPU.
        device: where to compute; ``None`` = a GPU if there is one.
        progress: called with each record when it is there.

    Returns:
        The records of the rows asked for. Table, figure and sheet of all that is recorded are written beside them.

    Raises:
        UserError: an unknown row, less than one seed or job, or a run that the system ended.
    """
    if seeds < 1 or jobs < 1:
        raise UserError(f"ask for at least one seed and one job, not {seeds} and {jobs}")
    out = Path(out)
    # All rows with seed 0 come first: half of a table is then a whole table with fewer seeds.
    runs = [Run(table, row, seed, scale, out, device) for seed in range(seeds) for row in table.chosen(rows)]
    todo = [run for run in runs if not run.file.is_file()]
    used = {run.settings.perceptual.network for run in todo if run.settings.loss.perceptual > 0}
    used |= {YARDSTICK.network} if used else set()
    missing = sorted(name for name in used | {JUDGE} if todo and not network_file(name, out).is_file())
    for _ in _in_processes([partial(make_network, name, out) for name in missing], jobs):
        pass
    found = {run.file: load_record(run.file) for run in runs if run not in todo}
    first = {run.folder: run for run in reversed(todo)}.values()  # equal rows: one trains, then the others are tested
    for wave in ([run for run in todo if run in first], [run for run in todo if run not in first]):
        for file in _in_processes([run.carry_out for run in wave], jobs):
            found[file] = load_record(file)
            if progress is not None:
                progress(found[file])
    write_results(table, out, scale, device)
    return [found[run.file] for run in runs]


def _in_processes(tasks: Sequence[Callable[[], Any]], jobs: int) -> Iterator[Any]:
    """Results of tasks as they come, ``jobs`` at once; one at a time needs no processes."""
    if jobs == 1 or len(tasks) < 2:
        yield from (task() for task in tasks)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting: list[Future] = [pool.submit(task) for task in tasks]
        yield from (future.result() for future in as_completed(waiting))
    except BrokenProcessPool as error:
        raise UserError(
            "a run was ended by the system (out of memory?): the same command goes on, with fewer --jobs"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------------------ records


@dataclass(frozen=True)
class Record:
    """All that is known of one finished run."""

    table: str
    row: str
    seed: int
    scale: str
    answers: str
    against: str
    """The row that this one is compared with."""
    size: int
    """Side of the training pictures, pixels."""
    steps: int
    parameters: int
    """Of the generator."""
    seconds: float
    """Of training, without the tests."""
    clock: str
    """What seconds are."""
    device: str
    torch: str
    commit: str | None
    judge: str
    """Digest of the weights that measured distances."""
    settings: dict[str, dict[str, Any]]
    """Those that are not the defaults; :func:`~lama_minimal.config.from_dict` makes all of them."""
    curve: dict[str, list[float | None]]
    scores: dict[str, dict[str, list[float | None]]] = field(repr=False)
    """Condition → measure → a number for each picture."""

    def values(self, condition: str, measure: str) -> np.ndarray:
        """(N,) of a measure, or (N, 2) of the gradient; a missing number is NaN."""
        found = self.scores[condition]
        names = ("gradient", "gradient_original") if measure == "gradient" else (measure,)
        columns = [np.array([np.nan if value is None else value for value in found[name]], float) for name in names]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def save(self, file: Path) -> None:
        """Write the record, whole or not at all: a line for each field."""
        values = {name: json.dumps(value, separators=(",", ":")) for name, value in asdict(self).items()}
        lines = [f'"{name}":{value}' for name, value in values.items()]
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        os.replace(new, file)


def load_record(file: str | Path) -> Record:
    """A record from its file.

    Raises:
        UserError: it is none.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
        return Record(**{part.name: values[part.name] for part in fields(Record)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no record of an ablation ({error}): delete it, and its run is tested again"
        ) from error


def load_records(folder: str | Path) -> list[Record]:
    """The records of a table's folder, or of a folder of such; rows in the order of their table, then by seed.

    Raises:
        UserError: there are none, or one is damaged.
    """
    folder = Path(folder)
    files = [*folder.glob("*-s*.json"), *folder.glob("*/*-s*.json")]
    if not files:
        raise UserError(f"no records in {folder}: lama-minimal ablate --out writes some")
    records = [load_record(file) for file in files]
    order = {
        (name, row.name): place
        for name, make in TABLES.items()
        for place, row in enumerate(make(SCALES["cpu"]).rows)
    }  # fmt: skip
    last = len(order)
    return sorted(records, key=lambda r: (r.table, order.get((r.table, r.row), last), r.row, r.seed))


# ------------------------------------------------------------------------------------------------------- uncertainties


class Cell(NamedTuple):
    """A number of a table."""

    value: float
    low: float
    """Of the bootstrap interval over pictures."""
    high: float
    spread: float
    """Standard deviation over seeds; NaN with one."""
    agree: bool
    """All seeds lie on one side of 0."""

    @property
    def settled(self) -> bool:
        """Whether the interval excludes 0 and all seeds agree."""
        return self.agree and (self.low > 0 or self.high < 0)


def by_row(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Row → its records, in the records' order."""
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        rows[record.row].append(record)
    return dict(rows)


def cell(records: Sequence[Record], condition: str, measure: str) -> Cell:
    """A row's number: of the means over seeds for each picture, with its interval and spread."""
    each = np.stack([record.values(condition, measure) for record in records])  # (seeds, N) or (seeds, N, 2)
    return _cell(each, MEASURED[measure].statistic)


def difference(records: Sequence[Record], others: Sequence[Record], condition: str, measure: str) -> Cell:
    """One row minus another on the same pictures, seed by seed where both have it; NaN where no seed is common."""
    theirs = {record.seed: record for record in others}
    pairs = [(record, theirs[record.seed]) for record in records if record.seed in theirs]
    if not pairs:
        return Cell(np.nan, np.nan, np.nan, np.nan, False)
    statistic = MEASURED[measure].statistic
    first, second = (np.stack([pair[side].values(condition, measure) for pair in pairs]) for side in (0, 1))
    if first.ndim == 2:
        return _cell(first - second, statistic)
    both = np.concatenate([first, second], axis=2)  # (seeds, N, 4)
    return _cell(both, lambda x: statistic(x[..., :2]) - statistic(x[..., 2:]))


def _cell(each: np.ndarray, statistic: metrics.Statistic) -> Cell:
    """(seeds, N, …) → the statistic of the seeds' mean, its interval over the N pictures, its spread over seeds."""
    interval = bootstrap_interval(each.mean(axis=0), statistic, LEVEL, RESAMPLES, SEED)
    kept = ~np.isnan(each.reshape(*each.shape[:2], -1)).any(axis=(0, 2))
    single = statistic(each[:, kept]) if kept.any() else np.full(len(each), np.nan)
    spread = float(single.std(ddof=1)) if len(single) > 1 else np.nan
    return Cell(*interval, spread, bool((single > 0).all() or (single < 0).all()))


class Compared(NamedTuple):
    """A new number beside the recorded ones."""

    row: str
    seed: int
    condition: str
    measure: str
    value: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether it lies where it was to be expected."""
        return self.low <= self.value <= self.high


def compare(records: Sequence[Record], recorded: Sequence[Record]) -> list[Compared]:
    """Whether the scores of new runs lie in the recorded intervals: bootstrap, two spreads over seeds to each side.

    Distances by another judge are left out.

    Raises:
        UserError: a row that was not recorded, or with other settings.
    """
    found = []
    for record in records:
        theirs = [other for other in recorded if (other.table, other.row) == (record.table, record.row)]
        if not theirs:
            raise UserError(f"table {record.table}, row {record.row!r} is not among the records to compare with")
        seedless = [{**r.settings, "run": {**r.settings.get("run", {}), "seed": 0}} for r in (record, theirs[0])]
        if seedless[0] != seedless[1]:
            raise UserError(f"table {record.table}, row {record.row!r} was recorded with other settings")
        for condition in record.scores:
            for name, measure in MEASURED.items():
                if condition not in theirs[0].scores or (name == "distance" and record.judge != theirs[0].judge):
                    continue
                expected = cell(theirs, condition, name)
                margin = 0.0 if np.isnan(expected.spread) else 2 * expected.spread
                value = float(measure.statistic(record.values(condition, name)[None])[0])
                low, high = expected.low - margin, expected.high + margin
                found.append(Compared(record.row, record.seed, condition, name, value, low, high))
    return found


def comparison(compared: Sequence[Compared]) -> str:
    """What :func:`compare` found, a line for each score and one for all."""
    lines = [
        f"{'inside ' if c.inside else 'OUTSIDE'}  {c.row} (seed {c.seed}), {c.condition}, {MEASURED[c.measure].label}: "
        f"{c.value:.4f}, recorded {c.low:.4f} to {c.high:.4f}"
        for c in compared
    ]
    return "\n".join(
        [*lines, f"{sum(c.inside for c in compared)} of {len(compared)} scores lie in the recorded intervals"]
    )


# --------------------------------------------------------------------------------------------------- tables, pictures


def table(records: Sequence[Record], markdown: bool = False) -> str:
    """Records of one table as text: each measure of each row under each condition, and differences between rows.

    Args:
        records: of one table.
        markdown: with bars for Markdown, else aligned for a terminal.

    Raises:
        ValueError: records of no or of several tables.
    """
    rows = by_row(records)
    if len({record.table for record in records}) != 1:
        raise ValueError("a table is made of the records of one table")
    conditions = list(records[0].scores)
    pictures = len(records[0].scores[conditions[0]]["hole_error"])
    seeds = sorted({record.seed for record in records})
    parts = [
        f"Table {records[0].table}, scale {records[0].scale}: {len(seeds)} seed{'s' * (len(seeds) > 1)}, {pictures} "
        f"pictures a condition; ± half the {LEVEL:.0%} bootstrap interval over pictures, s = standard deviation over "
        "seeds; a difference in [ ] is * where its interval excludes 0 and all seeds agree.",
        _lines([["row", "asks", "parameters", "steps", "training, s", "seeds"], *map(_facts, rows.values())], markdown),
    ]
    for name, measure in MEASURED.items():
        body = [
            [row, *(_plain(cell(runs, c, name), measure.decimals) for c in conditions)] for row, runs in rows.items()
        ]
        parts += [f"{measure.label} ({measure.better} is better)", _lines([["", *conditions], *body], markdown)]
        body = [
            [f"{row} − {runs[0].against}", *(_signed(difference(runs, rows[runs[0].against], c, name), measure.decimals)
                                              for c in conditions)]
            for row, runs in rows.items()
            if runs[0].against in rows and runs[0].against != row
        ]  # fmt: skip
        if body:
            parts += [f"{measure.label}, differences", _lines([["", *conditions], *body], markdown)]
    return "\n\n".join(parts) + "\n"


def _facts(runs: Sequence[Record]) -> list[str]:
    first, seconds = runs[0], np.mean([record.seconds for record in runs])
    return [first.row, first.answers, f"{first.parameters:,}", str(first.steps), f"{seconds:.0f}", str(len(runs))]


def _plain(value: Cell, decimals: int) -> str:
    spread = "" if np.isnan(value.spread) else f" s{value.spread:.{decimals}f}"
    return f"{value.value:.{decimals}f} ±{(value.high - value.low) / 2:.{decimals}f}{spread}"


def _signed(value: Cell, decimals: int) -> str:
    star = " *" if value.settled else ""
    return f"{value.value:+.{decimals}f} [{value.low:+.{decimals}f}, {value.high:+.{decimals}f}]{star}"


def _lines(cells: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        head, *rest = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([head, "|---" * len(cells[0]) + "|", *rest])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _mark(place: int) -> dict[str, Any]:
    """Colour and line of a row: solid while there are colours, dashed in the next round."""
    colours = list(PALETTE.values())
    return dict(color=colours[place % len(colours)], linestyle=("-", "--", ":")[place // len(colours) % 3])


def figure(records: Sequence[Record], measure: str = "hole_error") -> "Figure":
    """Records of one table as a matplotlib figure: a measure against the pictures' size, for each recipe of masks.

    Where they were tested, also against the perspective; where rows differ in steps, also against training seconds.
    Bars are intervals over pictures, dots are seeds.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels: dict[str, dict[float, str]] = defaultdict(dict)
    for name in records[0].scores:
        recipe, size, *strength = name.split(" ")
        key = f"{recipe} masks, {size} px, by perspective" if strength else f"{recipe} masks, by size"
        panels[key][float(strength[1] if strength else size)] = name
    panels = {key: places for key, places in panels.items() if len(places) > 1}
    rows = by_row(records)
    timed = len({record.steps for record in records}) > 1
    columns = len(panels) + timed
    with matplotlib.rc_context(style()):
        drawn = Figure(figsize=(4.2 * max(1, columns), 3.6 + 0.1 * len(rows)), dpi=100, layout="constrained")
        axes = drawn.subplots(1, max(1, columns), squeeze=False)[0]
        for axis, (title, places) in zip(axes, panels.items(), strict=False):
            _draw_panel(axis, rows, places, measure)
            axis.set_title(title)
        if timed:
            _draw_time(axes[-1], rows, next(iter(records[0].scores)), measure)
        axes[0].set_ylabel(MEASURED[measure].label)
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(4, len(rows)))
    return drawn


def _draw_panel(axis: "Axes", rows: dict[str, list[Record]], places: dict[float, str], measure: str) -> None:
    x = np.array(list(places))
    sizes = x.min() >= 16
    for place, (row, runs) in enumerate(rows.items()):
        shift = 0.01 * (place - (len(rows) - 1) / 2)  # side by side
        at = x * 2**shift if sizes else x + shift
        cells = [cell(runs, name, measure) for name in places.values()]
        value, low, high = (np.array([getattr(c, part) for c in cells]) for part in ("value", "low", "high"))
        axis.errorbar(at, value, [value - low, high - value], label=row, elinewidth=0.8, **_mark(place))
        for run in runs:
            single = [cell([run], name, measure).value for name in places.values()]
            axis.plot(at, single, ".", color=_mark(place)["color"], markersize=4)
    if sizes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [f"{size:g}" for size in x], minor=False)
        axis.minorticks_off()
    axis.set_xlabel("side of the pictures, pixels" if sizes else "perspective, 0 = straight on")
    axis.grid(True, axis="y")


def _draw_time(axis: "Axes", rows: dict[str, list[Record]], condition: str, measure: str) -> None:
    for place, (row, runs) in enumerate(rows.items()):
        found = cell(runs, condition, measure)
        seconds = np.mean([run.seconds for run in runs])
        around = [[found.value - found.low], [found.high - found.value]]
        axis.errorbar([seconds], [found.value], around, fmt="o", label=row, color=_mark(place)["color"], elinewidth=0.8)
        axis.annotate(row, (seconds, found.value), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axis.set_xlabel("seconds of training")
    axis.set_title(f"{condition}, by training")
    axis.grid(True, axis="y")


def write_results(table_: Table, out: Path, scale: str, device: str | None) -> None:
    """Write what the records of a table's folder say: ``TABLE.md``, ``TABLE.png`` and the sheet ``TABLE.jpg``."""
    folder = out / table_.name
    order = [row.name for row in table_.rows]
    records = [r for r in load_records(folder) if r.row in order]
    records.sort(key=lambda r: (order.index(r.row), r.seed))
    (folder / f"{table_.name}.md").write_text(table(records, markdown=True), encoding="utf-8")
    figure(records).savefig(folder / f"{table_.name}.png")
    runs = [Run(table_, row, 0, scale, out, device) for row in table_.rows]
    strips = {run.row.name: run.strip for run in runs if run.strip.is_file()}
    if not strips:
        return  # the checkpoints were thrown away; the sheet stays what it was
    tasks = shown_tasks(records[0].size)
    columns = [[task.image for task in tasks], [overlay_mask(task.image, task.mask, 1) for task in tasks]]
    columns += [np.split(np.asarray(Image.open(strip)), len(tasks), axis=1) for strip in strips.values()]
    pictures = [column[task] for task in range(len(tasks)) for column in columns]
    titles = ["original", "to be filled", *strips]
    save_sheet(folder / f"{table_.name}.jpg", pictures, len(columns), titles, side=128)
