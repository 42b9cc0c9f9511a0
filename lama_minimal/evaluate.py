"""Evaluation: a trained network beside the classical methods, on the same pictures and the same holes.

Every number comes with a bootstrap interval, because forty pictures say less than four decimals suggest; whether one
method beats another is read from their paired differences. Structured and free scenes are reported apart: what a
network learns first is to continue structure.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import skimage.data
import torch
from tqdm import tqdm

from lama_minimal import metrics, viz
from lama_minimal.checkpoint import load_loss_network, pick_device
from lama_minimal.classical import BASELINES, Inpaint
from lama_minimal.config import UserError
from lama_minimal.data import EvaluationSample, Files, evaluation_set, open_images
from lama_minimal.distances import (
    Extractor,
    deepest,
    extract,
    f1_with_fid,
    feature_distance,
    inception,
    lpips,
    set_distances,
)
from lama_minimal.inference import Inpainter
from lama_minimal.masks import draw_mask, mask_area, recipe_for
from lama_minimal.metrics import Interval
from lama_minimal.perceptual import PerceptualNetwork
from lama_minimal.scenes import STRUCTURED
from lama_minimal.shards import Shards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
"""Level, resamples and seed of every bootstrap interval of a report."""

LEAST_SIZE = 16
"""The smallest pictures that :func:`evaluate_model` takes, pixels."""

JUDGE = "scenes-judge"
"""The network whose features measure distances: it ships, and no model here was trained with it as a loss."""

LEAST_IN_CHART = 5
"""Pictures that a bin of area needs for bars of its own."""

Scores = dict[str, dict[str, np.ndarray]]
"""method → measure → one row for each picture."""


class Measure(NamedTuple):
    """A column of the report."""

    label: str
    better: Literal["lower", "higher", "close to 1"]
    decimals: int
    statistic: metrics.Statistic
    meaning: str


MEASURES: dict[str, Measure] = {
    "hole_error": Measure("hole error", "lower", 4, metrics.mean, "mean absolute error inside the hole, 0 to 1"),
    "border_error": Measure(
        "border error",
        "lower",
        4,
        metrics.mean,
        f"mean absolute error in the hole's outermost {metrics.BORDER_WIDTH} pixels, 0 to 1",
    ),
    "distance": Measure(
        "distance",
        "lower",
        4,
        metrics.mean,
        f"distance of features, by the network {JUDGE}, which is no model's loss; not LPIPS",
    ),
    "gradient": Measure(
        "gradient",
        "close to 1",
        3,
        metrics.ratio_of_sums,
        "gradient energy in the hole, filled over original: 0 is flat, 1 as sharp as the original",
    ),
    "ssim": Measure("SSIM", "higher", 4, metrics.mean, "structural similarity of the whole picture"),
    "psnr": Measure("PSNR", "higher", 2, metrics.mean, "peak signal-to-noise ratio of the whole picture, dB"),
}

COMPARED = ("hole_error", "distance")
"""Measures by which the first method is compared with the others, picture by picture."""


class Shown(NamedTuple):
    """A picture of the report's figure."""

    sample: EvaluationSample
    fillings: dict[str, np.ndarray]


@dataclass
class Condition:
    """Pictures of one size and kind, and how every method did on each of them."""

    samples: Sequence[EvaluationSample]
    scores: Scores
    """method → measure → (N,), for the gradient (N, 2): filled and original."""
    shown: list[Shown]

    @cached_property
    def groups(self) -> dict[str, dict[str, np.ndarray]]:
        """Kind of group → name → (N,) bool: all pictures, families and classes of scenes, bins of masked area."""
        classes = np.array([sample.scene_class or "" for sample in self.samples])
        structured = np.isin(classes, list(STRUCTURED))
        areas = np.array([_area_bin(sample.mask) for sample in self.samples])
        families = {"structured": structured, "free": (classes != "") & ~structured}
        return {
            "all": {"all": np.ones(len(classes), bool)},
            "families": {name: members for name, members in families.items() if members.any()},
            "areas": {name: areas == name for name in sorted(set(areas))},
            "classes": {name: classes == name for name in sorted(set(classes) - {""})},
        }

    @cached_property
    def summary(self) -> dict[str, dict[str, dict[str, dict[str, Interval]]]]:
        """Kind of group → name → method → measure → interval."""
        return {
            kind: {
                name: {
                    method: {
                        key: metrics.bootstrap_interval(
                            values[members], MEASURES[key].statistic, LEVEL, RESAMPLES, SEED
                        )
                        for key, values in measured.items()
                    }
                    for method, measured in self.scores.items()
                }
                for name, members in groups.items()
            }
            for kind, groups in self.groups.items()
        }

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """Measure → group → other method → the first method's value minus the other's, on the same pictures.

        Below zero as a whole: the first method is better; above zero as a whole: worse; else undecided.
        """
        first, *others = self.scores
        groups = self.groups["all"] | self.groups["families"]

        def difference(key: str, other: str, members: np.ndarray) -> Interval:
            ours, theirs = (self.scores[method][key][members] for method in (first, other))
            return metrics.paired_difference(ours, theirs, LEVEL, RESAMPLES, SEED)

        return {
            key: {
                name: {other: difference(key, other, members) for other in others} for name, members in groups.items()
            }
            for key in COMPARED
        }


def _tenth(mask: np.ndarray) -> int:
    """Which tenth of the picture a mask's area reaches, 0 to 9."""
    return min(9, 10 * int(mask.sum()) // mask.size)


def _area_bin(mask: np.ndarray) -> str:
    """The bin of a mask's area, such as "10-20%"; the lower end belongs to it."""
    tenth = _tenth(mask)
    return f"{10 * tenth}-{10 * tenth + 10}%"


def _verdict(difference: Interval) -> str:
    """What a paired difference of errors says of the first method."""
    return "better" if difference.high < 0 else "worse" if difference.low > 0 else "undecided"


def _plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no NaN."""
    return {key: None if np.isnan(value) else round(value, 6) for key, value in interval._asdict().items()}


@dataclass
class Report:
    """What an evaluation found, for one condition (such as one size) or several.

    The first method is the one that the report is about; the others stand beside it. ``first | second`` is a report
    with the conditions of both.
    """

    settings: dict[str, Any]
    conditions: dict[str, Condition]

    def __or__(self, other: "Report") -> "Report":
        """Both reports' conditions in one report.

        Raises:
            ValueError: the same condition in both, or different methods.
        """
        if twice := self.conditions.keys() & other.conditions.keys():
            raise ValueError(f"both reports have the condition {', '.join(sorted(twice))}")
        if self.methods != other.methods:
            raise ValueError(f"reports of different methods: {self.methods} and {other.methods}")
        return Report(self.settings | other.settings, self.conditions | other.conditions)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the first one being what the report is about."""
        return list(next(iter(self.conditions.values())).scores)

    def to_json(self) -> dict[str, Any]:
        """The whole report as plain values; a number that does not exist is None."""
        return {
            "settings": self.settings,
            "methods": self.methods,
            "measures": {
                name: {"label": measure.label, "better": measure.better, "meaning": measure.meaning}
                for name, measure in MEASURES.items()
            },
            "conditions": {name: _condition_json(condition) for name, condition in self.conditions.items()},
        }

    def table(self) -> str:
        """The report as aligned text for a terminal."""
        return "\n\n".join(_condition_table(name, condition) for name, condition in self.conditions.items())

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json`` and ``report.png`` into a folder, which is made when it is missing; return it.

        Raises:
            UserError: the folder cannot be made.
        """
        folder = _made(folder)
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        report_figure(self).savefig(folder / "report.png")
        return folder


def _made(folder: str | Path) -> Path:
    """The folder, made when it is missing.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write a report into {folder} ({error.strerror}): choose another --out") from error
    return folder


def _condition_json(condition: Condition) -> dict[str, Any]:
    """One condition as plain values: every group's intervals, the paired differences and every picture's scores."""
    groups = {
        kind: {
            name: {
                "count": int(condition.groups[kind][name].sum()),
                "methods": {
                    method: {key: _plain(interval) for key, interval in measured.items()}
                    for method, measured in by_method.items()
                },
            }
            for name, by_method in named.items()
        }
        for kind, named in condition.summary.items()
    }
    differences = {
        f"{key}_difference": {
            name: {other: _plain(interval) | {"verdict": _verdict(interval)} for other, interval in others.items()}
            for name, others in by_group.items()
        }
        for key, by_group in condition.differences.items()
    }
    images = [
        {
            "name": sample.name,
            "size": list(sample.mask.shape),
            "scene_class": sample.scene_class,
            "area": round(mask_area(sample.mask), 6),
            "scores": {method: _row(measured, index) for method, measured in condition.scores.items()},
        }
        for index, sample in enumerate(condition.samples)
    ]
    everything = groups.pop("all")["all"]
    return {**everything, **groups, **differences, "images": images}


def _row(measured: Mapping[str, np.ndarray], index: int) -> dict[str, float | None]:
    """One picture's scores of one method as plain values."""
    values = {key: MEASURES[key].statistic(rows[None, index : index + 1])[0] for key, rows in measured.items()}
    return {key: None if np.isnan(value) else round(float(value), 6) for key, value in values.items()}


# ---------------------------------------------------------------------------------------------------------- text


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _cell(interval: Interval, decimals: int) -> str:
    """A value and half its interval's width, or a dash."""
    if np.isnan(interval.value):
        return "-"
    return f"{interval.value:.{decimals}f} ±{(interval.high - interval.low) / 2:.{decimals}f}"


def _condition_table(name: str, condition: Condition) -> str:
    """One condition as text: all measures, the hole error by group, and whom the first method beats."""
    first, *others = condition.scores
    overall = [
        ["", *(measure.label for measure in MEASURES.values())],
        ["better is", *(measure.better for measure in MEASURES.values())],
    ]
    for method, measured in condition.summary["all"]["all"].items():
        overall.append([method, *(_cell(measured[key], MEASURES[key].decimals) for key in MEASURES)])
    groups = [["hole error of", "pictures", *condition.scores]]
    for kind in ("families", "areas", "classes"):
        for group, by_method in condition.summary[kind].items():
            values = [by_method[method]["hole_error"].value for method in condition.scores]
            label = f"masked {group}" if kind == "areas" else group
            groups.append([label, str(condition.groups[kind][group].sum()), *(f"{value:.4f}" for value in values)])
    head = f"{name}: {len(condition.samples)} pictures (± half of the {LEVEL:.0%} interval)"
    lines = [head, "", *_aligned(overall), "", *_aligned(groups)]
    for key, by_group in condition.differences.items():
        lines += [""] if others else []
        for group, compared in by_group.items():
            verdicts = {other: _verdict(interval) for other, interval in compared.items()}
            for verdict in ("better", "undecided", "worse"):
                if names := [other for other in others if verdicts[other] == verdict]:
                    where = "all pictures" if group == "all" else f"{group} scenes"
                    than = "against" if verdict == "undecided" else "than"
                    lines.append(f"{first}, {where}: {verdict} {than} {', '.join(names)}, by {MEASURES[key].label}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- picture


def report_figure(report: Report) -> "Figure":
    """The report as a matplotlib figure: some pictures with every method's filling, and the hole errors as bars.

    Titles of columns carry the mean hole error of every condition, in the order of the conditions.
    """
    names = list(report.conditions)
    most = [5] if len(names) == 1 else [4] + [2] * (len(names) - 1)
    rows, row_titles, seen = [], [], set()
    for (name, condition), count in zip(report.conditions.items(), most, strict=True):
        # A further condition shows other scenes than those before it, as long as there are any.
        for sample, fillings in sorted(condition.shown, key=lambda shown: _kind(shown.sample) in seen)[:count]:
            masked = viz.overlay_mask(sample.image, sample.mask, opacity=1)
            rows.append([sample.image, masked, *fillings.values()])
            row_titles.append(f"{_short(_kind(sample))} · {name}")
            seen.add(_kind(sample))
    titles = ["original", "to be filled"]
    for method in report.methods:
        errors = [
            condition.summary["all"]["all"][method]["hole_error"].value for condition in report.conditions.values()
        ]
        titles.append(f"{method}\n" + " | ".join(f"{error:.3f}" for error in errors))
    charts = {
        f"{name}, {len(condition.samples)} pictures": _chart(condition) for name, condition in report.conditions.items()
    }
    colours = viz.method_colours(report.methods)
    title = f"Mean absolute error inside the hole, {' | '.join(names)}"
    return viz.comparison_figure(rows, titles, row_titles, charts, colours, title)


def _kind(sample: EvaluationSample) -> str:
    """The class of a scene, the name of a photograph."""
    return sample.scene_class or sample.name


def _short(name: str, most: int = 20) -> str:
    """The end of a long name, such as a file's in a folder of folders."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _chart(condition: Condition) -> dict[str, dict[str, Interval]]:
    """Hole errors as bars: all pictures and the families of scenes, or without scenes the larger bins of area."""
    kind = "families" if condition.summary["families"] else "areas"
    groups = condition.summary["all"] | condition.summary[kind]
    members = condition.groups["all"] | condition.groups[kind]
    return {
        name: {method: measured["hole_error"] for method, measured in by_method.items()}
        for name, by_method in groups.items()
        if name == "all" or members[name].sum() >= LEAST_IN_CHART
    }


def _choose(samples: Sequence[EvaluationSample], most: int = 8) -> list[int]:
    """Which pictures to show: a class of scene once, structured and free ones in turn, holes not too small to see.

    The choice depends on what was asked, never on how well it was answered.
    """
    large = [index for index, sample in enumerate(samples) if mask_area(sample.mask) >= 0.15]
    by_family: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for index in [*large, *range(len(samples))]:
        name = _kind(samples[index])
        by_family[name in STRUCTURED].setdefault(name, index)
    structured, free = (list(by_family[family].values()) for family in (True, False))
    mixed = []
    while structured or free:
        mixed += [*structured[:1], *free[:1]]
        structured, free = structured[1:], free[1:]
    return mixed[:most]


# ---------------------------------------------------------------------------------------------------- evaluation


@cache
def _judging_network() -> PerceptualNetwork:
    return load_loss_network(JUDGE, batch_statistics=False)


@torch.no_grad()
def _score(filling: np.ndarray, sample: EvaluationSample) -> dict[str, np.ndarray]:
    """Every measure of one filled picture."""

    def tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)

    composite, image = tensor(filling), tensor(sample.image)  # (1, 3, S, S)
    mask = torch.from_numpy(sample.mask[None, None].astype(np.float32))  # (1, 1, S, S)
    energies = [metrics.gradient_energy(picture, mask) for picture in (composite, image)]
    values = {
        "hole_error": metrics.hole_error(composite, image, mask),
        "border_error": metrics.border_error(composite, image, mask),
        "distance": feature_distance(_judging_network(), composite, image),
        "gradient": torch.cat(energies),
        "ssim": metrics.ssim(composite, image),
        "psnr": metrics.psnr(composite, image),
    }
    return {key: value.squeeze().numpy() for key, value in values.items()}


def _filled(method: str, inpaint: Inpaint, sample: EvaluationSample) -> np.ndarray:
    """A method's answer.

    Raises:
        ValueError: it is none.
    """
    filling = inpaint(sample.image.copy(), sample.mask.copy())
    if filling.shape != sample.image.shape or filling.dtype != np.uint8:
        expected = f"{sample.image.shape} uint8"
        raise ValueError(f"{method} must answer with {expected}, not {filling.shape} {filling.dtype}")
    return filling


def _evaluate_condition(
    methods: Mapping[str, Inpaint], samples: Sequence[EvaluationSample], bar: tqdm, known: "Known"
) -> Condition:
    """Fill and score every sample with every method; of those with known scores only what is shown is filled."""
    rows: dict[str, list[dict[str, np.ndarray]]] = {method: [] for method in methods}
    chosen = _choose(samples)
    shown: dict[int, Shown] = {index: Shown(samples[index], {}) for index in chosen}
    for index, sample in enumerate(samples):
        scored = known.get(index)
        for method, inpaint in methods.items():
            if index in shown or scored is None:
                filling = _filled(method, inpaint, sample)
            if index in shown:
                shown[index].fillings[method] = filling
            rows[method].append(_score(filling, sample) if scored is None else scored[method])
        bar.update()
    scores = {
        method: {key: np.stack([row[key] for row in scored]) for key in MEASURES} for method, scored in rows.items()
    }
    return Condition(samples, scores, list(shown.values()))


def evaluate(
    methods: Mapping[str, Inpaint],
    samples: Sequence[EvaluationSample],
    progress: bool = True,
    condition: str | None = None,
    known: Mapping[str, "Known"] | None = None,
) -> Report:
    """Fill every sample with every method and compare with the originals.

    Args:
        methods: name → (picture (H, W, 3) uint8, mask (H, W) bool) → filled picture; the first is the one that the
            report is about. They see what is under the hole, as a picture with something to remove shows it.
        samples: what to fill; each size becomes a condition of its own, such as "64 px".
        progress: show a progress bar.
        condition: name of one condition for all samples, whatever their sizes.
        known: scores that a :class:`Ledger` has already, by condition.

    Returns:
        The report; ``save`` writes it.

    Raises:
        ValueError: no methods or samples, or a method that answers with another shape or type.
    """
    if not methods or not samples:
        raise ValueError(f"nothing to evaluate: {len(methods)} methods, {len(samples)} samples")
    known = known or {}
    groups = _grouped(samples, condition)
    with tqdm(total=len(samples), desc="evaluate", unit="picture", disable=not progress) as bar:
        found = {name: _evaluate_condition(methods, group, bar, known.get(name, {})) for name, group in groups.items()}
    return Report({"interval_level": LEVEL, "bootstrap_resamples": RESAMPLES, "bootstrap_seed": SEED}, found)


def _grouped(samples: Sequence[EvaluationSample], condition: str | None) -> dict[str, list[EvaluationSample]]:
    """Samples by condition: one of this name, or one for each size."""
    conditions: dict[str, list[EvaluationSample]] = {}
    for sample in samples:
        conditions.setdefault(condition or f"{max(sample.mask.shape)} px", []).append(sample)
    return conditions


# --------------------------------------------------------------------------------------------- several processes

Known = Mapping[int, dict[str, dict[str, np.ndarray]]]
"""Number of a sample in its condition → method → measure → score."""


class Ledger:
    """Scores of single pictures on the disk, where several processes put them together, and a killed one finds them.

    Each process adds lines to a file of its own in the report's folder; the file's name tells to which evaluation they
    belong. Whoever finds that all are there makes the report and removes them.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], network: torch.nn.Module, rank: int, world: int) -> None:
        """Name the files.

        Args:
            folder: of the report.
            asked: what tells this evaluation from others.
            network: the models, whose weights tell the rest.
            rank: which process this is, 0 … world - 1; it takes every ``world``-th picture.
            world: number of processes.
        """
        digest = hashlib.sha256(json.dumps([asked, list(MEASURES)], sort_keys=True).encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        self.folder, self.rank, self.world = folder, rank, world
        self.prefix = f".scores-{digest.hexdigest()[:16]}"

    def read(self) -> dict[str, dict[int, dict[str, dict[str, np.ndarray]]]]:
        """All scores so far, of all processes, by condition; a line that a kill has cut is none."""
        known: dict[str, dict[int, dict[str, dict[str, np.ndarray]]]] = {}
        for path in sorted(self.folder.glob(f"{self.prefix}-*")):
            try:
                lines = path.read_text().splitlines()
            except FileNotFoundError:  # another process has made the report a moment ago
                continue
            for line in lines:
                try:
                    condition, index, scores = json.loads(line)
                except ValueError:
                    continue
                known.setdefault(condition, {})[index] = {
                    method: {key: np.asarray(value, np.float32) for key, value in row.items()}
                    for method, row in scores.items()
                }
        return known

    def score_share(
        self, methods: Mapping[str, Inpaint], conditions: Mapping[str, Sequence[EvaluationSample]], progress: bool
    ) -> dict[str, Known] | None:
        """Score those of this process's pictures that have no scores yet.

        Returns:
            The scores of all pictures, or None as long as other processes have some to make.
        """
        known = self.read()
        everything = [(name, index) for name, samples in conditions.items() for index in range(len(samples))]
        mine = [(name, i) for name, i in everything[self.rank :: self.world] if i not in known.get(name, {})]
        with (self.folder / f"{self.prefix}-{self.rank}-of-{self.world}").open("a") as file:
            file.write("\n")  # ends the line that a kill may have cut
            for name, index in tqdm(mine, "score", unit="picture", disable=not progress):
                sample = conditions[name][index]
                scores = {method: _score(_filled(method, fill, sample), sample) for method, fill in methods.items()}
                plain = {method: {key: value.tolist() for key, value in row.items()} for method, row in scores.items()}
                file.write(json.dumps([name, index, plain]) + "\n")
                file.flush()
            os.fsync(file.fileno())
        known = self.read()
        return known if all(index in known.get(name, {}) for name, index in everything) else None

    def remove(self) -> None:
        """Forget the scores, which are in the report."""
        for path in self.folder.glob(f"{self.prefix}-*"):
            path.unlink(missing_ok=True)


def _network(model: str, device: str | None) -> tuple[str, Inpainter]:
    """A short label for a model, without the folders it lies in, and the model."""
    path = Path(model).resolve()
    label = f"{path.parent.name}/{path.name}" if path.name in ("best", "last") else path.name
    return label, Inpainter.load(model, device)


def _networks(models: Sequence[str], device: str | None) -> dict[str, Inpainter]:
    """The models by their labels.

    Raises:
        UserError: two have the same.
    """
    found: dict[str, Inpainter] = {}
    for model in models:
        label, inpainter = _network(model, device)
        if label in found:
            raise UserError(f"two models are both called {label}: copy or rename the folder of one")
        found[label] = inpainter
    return found


def evaluate_model(
    model: str,
    data: str | None = None,
    masks: str = "thick",
    sizes: Sequence[int] = (64, 128),
    count: int = 48,
    out: str | Path | None = None,
    seed: int = 0,
    with_photographs: bool = False,
    progress: bool = True,
    device: str | None = None,
    rank: int = 0,
    world: int = 1,
    beside: Sequence[str] = (),
) -> Report | None:
    """Evaluate a trained model beside the classical methods, and beside other models if there are some.

    With ``out``, an evaluation that was interrupted goes on when it is asked for again, and several processes may
    share it.

    Args:
        model: a name or a path, as for :meth:`Inpainter.load`.
        data: folder or shards of pictures; None = held-out built-in scenes.
        masks: recipe of the masks, "thin", "medium" or "thick".
        sizes: sides of the pictures in pixels, a condition each; the training size and twice that are telling.
        count: pictures of each size.
        out: folder for ``report.json`` and ``report.png``; None = write nothing.
        seed: of pictures and masks.
        with_photographs: add the photographs of :func:`photographs` at the largest size, as a condition.
        progress: show a progress bar.
        device: where the model runs; None = a GPU if there is one.
        rank: which of several processes with the same arguments this is, 0 … world - 1.
        world: number of processes, which share the folder ``out``.
        beside: other models for the same pictures, with which the first one is compared picture by picture.

    Returns:
        The report; None while other processes have not done their share: the last one makes the report.

    Raises:
        UserError: a model, folder or recipe that does not exist, two models of one name, or no pictures or too small
            ones asked for.
    """
    if count < 1 or not sizes or min(sizes) < LEAST_SIZE:
        raise UserError(f"ask for at least one picture of at least {LEAST_SIZE} pixels, not {count} of {tuple(sizes)}")
    if seed < 0:
        raise UserError(f"seed is {seed}: give 0 or more")
    if out is not None:
        _made(out)  # before the work, not after it
    models = _networks([model, *beside], device)
    methods = {name: partial(inpainter, strategy="whole") for name, inpainter in models.items()} | BASELINES
    samples = [sample for size in dict.fromkeys(sizes) for sample in evaluation_set(data, count, size, masks, seed)]
    more = photographs(max(sizes)) if with_photographs else []
    label, *others = models
    asked = {"model": label, "beside": others, "data": data or "held-out built-in scenes"}
    asked |= {"masks": masks, "sizes": list(sizes), "count": count, "seed": seed}
    known = None
    if out is not None:
        networks = torch.nn.ModuleList(inpainter.generator for inpainter in models.values())
        ledger = Ledger(Path(out), asked, networks, rank, world)
        conditions = _grouped(samples, None) | _grouped(more, "photographs")
        if (known := ledger.score_share(methods, conditions, progress)) is None:
            return None
    report = evaluate(methods, samples, progress and known is None, known=known)
    if more:
        report |= evaluate(methods, more, progress and known is None, "photographs", known)
    report.settings = asked | report.settings
    if out is not None:
        report.save(out)
        ledger.remove()
    return report


# ------------------------------------------------------------------------------------------ the original's protocol

PROTOCOL = ("thin", "medium", "thick")
"""Recipes of the original's evaluation."""

CHUNK = 256
"""Pictures in memory at a time."""


def evaluate_protocol(
    model: str,
    data: str | None = None,
    features: str = "inception",
    size: int = 256,
    count: int = 2000,
    out: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a model as the original does: SSIM, LPIPS and FID on thin, medium and thick masks, and their F1.

    The original takes 30,000 pictures of Places at 512 pixels, or 2,000 of CelebA-HQ at 256. Beside FID stands that of
    real to real pictures at the same number; without as many pictures again, of as many as there are.

    Args:
        model: a name or a path, as for :meth:`Inpainter.load`.
        data: folder or shards of pictures; None = held-out built-in scenes.
        features: "inception" for the original's networks (the extra ``metrics``), or the name or file of a loss
            network: then its distance stands for LPIPS, and its features for Inception's. Numbers of different
            features are not to be compared.
        size: side of the square pictures, pixels.
        count: pictures; fewer where there are fewer.
        out: folder for ``protocol.json``; None = write nothing.
        seed: of pictures and masks.
        device: where the networks run; None = a GPU if there is one.
        progress: show a progress bar.

    Returns:
        Recipe → what :func:`_protocol_scores` says, and "settings".

    Raises:
        UserError: a model, folder or network that does not exist, or fewer than two pictures.
    """
    if count < 2 or size < LEAST_SIZE:
        raise UserError(f"ask for at least 2 pictures of at least {LEAST_SIZE} pixels, not {count} of {size}")
    if out is not None:
        _made(out)
    place = pick_device(device)
    extractor, distance = _judges(features, place)
    label, inpainter = _network(model, device)
    images = None if data is None else open_images(data)
    if images is not None:
        images = images.take(np.random.default_rng(seed).permutation(len(images)))
        count = min(count, len(images))
    asked = {"model": label, "data": data or "held-out built-in scenes", "features": features, "size": size}
    found: dict[str, Any] = {"settings": asked | {"count": count, "seed": seed}}
    others = [
        extract(_as_batches([sample.image for sample in samples]), extractor, place)
        for samples in _chunks(images, count, 2 * count, size, "thin", seed)
    ]
    with tqdm(total=count * len(PROTOCOL), desc="protocol", unit="picture", disable=not progress) as bar:
        for masks in PROTOCOL:
            columns: dict[str, list[np.ndarray | torch.Tensor]] = {}
            for samples in _chunks(images, 0, count, size, masks, seed):
                for name, values in _judge(inpainter, samples, extractor, distance, place).items():
                    columns.setdefault(name, []).append(values)
                bar.update(len(samples))
            joined = {name: torch.cat(parts) for name, parts in columns.items()}
            spare = torch.cat(others) if others else joined["real"][:0]
            found[masks] = _protocol_scores(joined, spare, features == "inception")
    if out is not None:
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        (Path(out) / "protocol.json").write_text(text + "\n", encoding="utf-8")
    return found


def _judges(features: str, device: torch.device) -> tuple[Extractor, Callable[..., torch.Tensor]]:
    """What measures sets and what measures pairs: the original's networks, or a loss network for both."""
    if features == "inception":
        return inception(device), lpips(device)
    network = load_loss_network(features, batch_statistics=False).to(device)
    return deepest(network), partial(feature_distance, network)


def _chunks(
    images: Files | Shards | None, first: int, last: int, size: int, masks: str, seed: int
) -> Iterator[list[EvaluationSample]]:
    """Pictures ``first`` to ``last`` with their masks, some at a time; scenes never end, a folder does."""
    last = last if images is None else min(last, len(images))
    for start in range(first, last, CHUNK):
        number = min(CHUNK, last - start)
        part = None if images is None else images.take(np.arange(start, start + number))
        yield evaluation_set(part, number, size, masks, seed + 1000 * (start // CHUNK) + 1_000_000 * (first > 0))


def _as_batches(pictures: Sequence[np.ndarray], each: int = 16) -> Iterator[torch.Tensor]:
    """(H, W, 3) uint8 pictures of one size as batches (B, 3, H, W) in [0, 1]."""
    for first in range(0, len(pictures), each):
        stacked = np.stack(pictures[first : first + each])
        yield torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def _judge(
    inpainter: Inpainter,
    samples: Sequence[EvaluationSample],
    extractor: Extractor,
    distance: Callable[..., torch.Tensor],
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Of each sample: tenth of masked area, SSIM, distance, and the features of filling and original."""
    fillings = [inpainter(sample.image, sample.mask, strategy="whole") for sample in samples]
    originals = [sample.image for sample in samples]
    pairs = [
        (one.to(device), other.to(device))
        for one, other in zip(_as_batches(fillings), _as_batches(originals), strict=True)
    ]
    return {
        "area": torch.tensor([_tenth(sample.mask) for sample in samples]),
        "ssim": torch.cat([metrics.ssim(*pair).cpu() for pair in pairs]),
        "distance": torch.cat([distance(*pair).cpu() for pair in pairs]),
        "fake": extract((one for one, _ in pairs), extractor, device),
        "real": extract((other for _, other in pairs), extractor, device),
    }


def _protocol_scores(columns: Mapping[str, torch.Tensor], others: torch.Tensor, original: bool) -> dict[str, Any]:
    """Intervals, distances of sets and F1, of all pictures and of each tenth of masked area with two at least.

    F1 with the distance exists for the original's networks alone: it takes LPIPS for a number up to 1.
    """

    def scores(members: torch.Tensor) -> dict[str, Any]:
        chosen = {name: values[members] for name, values in columns.items()}
        sets = set_distances(chosen["fake"], chosen["real"], others)
        interval = {
            name: metrics.bootstrap_interval(chosen[name].numpy(), metrics.mean, LEVEL, RESAMPLES, SEED)
            for name in ("ssim", "distance")
        }
        f1 = {"f1_ssim": f1_with_fid(interval["ssim"].value, sets.fid)}
        if original:
            f1["f1_lpips"] = f1_with_fid(1 - interval["distance"].value, sets.fid)
        plain = {name: None if np.isnan(value) else round(value, 6) for name, value in sets._asdict().items()}
        return plain | f1 | {name: _plain(one) for name, one in interval.items()}

    tenths = columns["area"]
    areas = {
        f"{10 * tenth}-{10 * tenth + 10}%": scores(tenths == tenth)
        for tenth in tenths.unique().tolist()
        if (tenths == tenth).sum() >= 2
    }
    return scores(torch.ones_like(tenths, dtype=torch.bool)) | {"areas": areas}


def protocol_table(found: Mapping[str, Any]) -> str:
    """What :func:`evaluate_protocol` found, as aligned text; bins of masked area below each recipe."""
    names = {"fid": "FID", "fid_others": "to others", "fid_real": "real to real", "kid": "KID", "p_ids": "P-IDS",
             "u_ids": "U-IDS", "f1_ssim": "F1 SSIM"}  # fmt: skip
    settings, distance = found["settings"], "distance"
    if settings["features"] == "inception":
        names, distance = names | {"f1_lpips": "F1 LPIPS"}, "LPIPS"
    rows = [["masks", "pictures", "SSIM", distance, *names.values()]]
    for masks in PROTOCOL:
        for name, scores in {masks: found[masks], **found[masks]["areas"]}.items():
            values = [scores["ssim"]["value"], scores["distance"]["value"], *(scores.get(key) for key in names)]
            cells = ["-" if value is None else f"{value:.4g}" for value in values]
            rows.append([name if name == masks else f"  masked {name}", str(scores["count"]), *cells])
    head = f"{settings['model']} on {settings['data']}, {settings['size']} px, features: {settings['features']}"
    return "\n".join([head, "", *_aligned(rows)])


# --------------------------------------------------------------------------------------------------- photographs

PHOTOGRAPHS: dict[str, tuple[Callable[[], np.ndarray], int]] = {
    "astronaut": (skimage.data.astronaut, 1),
    "cat": (skimage.data.chelsea, 2),
    "coffee": (skimage.data.coffee, 3),
    "rocket": (skimage.data.rocket, 4),
    "bricks": (skimage.data.brick, 12),
    "gravel": (skimage.data.gravel, 7),
}
"""Photographs inside scikit-image's wheel, which need no download, and the seed of each one's mask."""


def photographs(size: int) -> list[EvaluationSample]:
    """Six real photographs with fixed thick masks: the same holes at any size.

    Args:
        size: side of the squares cut from the photographs' middles, pixels.

    Returns:
        Samples without a scene class; "bricks" and "gravel" are grey.
    """
    samples = []
    for name, (load, seed) in PHOTOGRAPHS.items():
        image = load()
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        image = cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
        mask = draw_mask(recipe_for("thick", 256), (256, 256), np.random.default_rng(seed)).astype(np.uint8)
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST).astype(bool)
        samples.append(EvaluationSample(name, image, mask, None))
    return samples
