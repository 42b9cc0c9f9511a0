"""Evaluation: a trained network beside the classical methods, on the same pictures and the same holes.

Every number comes with a bootstrap interval, because forty pictures say less than four decimals suggest; whether one
method beats another is read from their paired differences. Structured and free scenes are reported apart: what a
network learns first is to continue structure.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import skimage.data
import torch
from tqdm import tqdm

from lama_minimal import metrics, viz
from lama_minimal.classical import BASELINES, Inpaint
from lama_minimal.config import UserError
from lama_minimal.data import EvaluationSample, evaluation_set
from lama_minimal.inference import Inpainter
from lama_minimal.masks import draw_mask, mask_area, recipe_for
from lama_minimal.metrics import Interval
from lama_minimal.scenes import STRUCTURED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
"""Level, resamples and seed of every bootstrap interval of a report."""

LEAST_SIZE = 16
"""The smallest pictures that :func:`evaluate_model` takes, pixels."""

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
    def differences(self) -> dict[str, dict[str, Interval]]:
        """Group → other method → hole error of the first method minus the other's, on the same pictures.

        Below zero as a whole: the first method is better; above zero as a whole: worse; else undecided.
        """
        first, *others = self.scores
        errors = {method: measured["hole_error"] for method, measured in self.scores.items()}
        return {
            name: {
                other: metrics.paired_difference(errors[first][members], errors[other][members], LEVEL, RESAMPLES, SEED)
                for other in others
            }
            for name, members in {**self.groups["all"], **self.groups["families"]}.items()
        }


def _area_bin(mask: np.ndarray) -> str:
    """The bin of a mask's area, such as "10-20%"; the lower end belongs to it."""
    tenth = min(9, 10 * int(mask.sum()) // mask.size)
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
        name: {other: _plain(interval) | {"verdict": _verdict(interval)} for other, interval in others.items()}
        for name, others in condition.differences.items()
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
    return {**everything, **groups, "hole_error_difference": differences, "images": images}


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
    for group, compared in condition.differences.items():
        verdicts = {other: _verdict(interval) for other, interval in compared.items()}
        for verdict in ("better", "undecided", "worse"):
            if names := [other for other in others if verdicts[other] == verdict]:
                where = "all pictures" if group == "all" else f"{group} scenes"
                than = "against" if verdict == "undecided" else "than"
                lines += [] if lines[-1].startswith(f"{first}, ") else [""]
                lines.append(f"{first}, {where}: {verdict} {than} {', '.join(names)}")
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
        "gradient": torch.cat(energies),
        "ssim": metrics.ssim(composite, image),
        "psnr": metrics.psnr(composite, image),
    }
    return {key: value.squeeze().numpy() for key, value in values.items()}


def _evaluate_condition(methods: Mapping[str, Inpaint], samples: Sequence[EvaluationSample], bar: tqdm) -> Condition:
    """Fill and score every sample with every method."""
    rows: dict[str, list[dict[str, np.ndarray]]] = {method: [] for method in methods}
    chosen = _choose(samples)
    shown: dict[int, Shown] = {index: Shown(samples[index], {}) for index in chosen}
    for index, sample in enumerate(samples):
        for method, inpaint in methods.items():
            filling = inpaint(sample.image.copy(), sample.mask.copy())
            if filling.shape != sample.image.shape or filling.dtype != np.uint8:
                expected = f"{sample.image.shape} uint8"
                raise ValueError(f"{method} must answer with {expected}, not {filling.shape} {filling.dtype}")
            rows[method].append(_score(filling, sample))
            if index in shown:
                shown[index].fillings[method] = filling
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
) -> Report:
    """Fill every sample with every method and compare with the originals.

    Args:
        methods: name → (picture (H, W, 3) uint8, mask (H, W) bool) → filled picture; the first is the one that the
            report is about. They see what is under the hole, as a picture with something to remove shows it.
        samples: what to fill; each size becomes a condition of its own, such as "64 px".
        progress: show a progress bar.
        condition: name of one condition for all samples, whatever their sizes.

    Returns:
        The report; ``save`` writes it.

    Raises:
        ValueError: no methods or samples, or a method that answers with another shape or type.
    """
    if not methods or not samples:
        raise ValueError(f"nothing to evaluate: {len(methods)} methods, {len(samples)} samples")
    conditions: dict[str, list[EvaluationSample]] = {}
    for sample in samples:
        conditions.setdefault(condition or f"{max(sample.mask.shape)} px", []).append(sample)
    with tqdm(total=len(samples), desc="evaluate", unit="picture", disable=not progress) as bar:
        found = {name: _evaluate_condition(methods, group, bar) for name, group in conditions.items()}
    return Report({"interval_level": LEVEL, "bootstrap_resamples": RESAMPLES, "bootstrap_seed": SEED}, found)


def _network(model: str, device: str | None) -> tuple[str, Inpaint]:
    """A short label for a model, without the folders it lies in, and the model as a method."""
    inpainter = Inpainter.load(model, device)
    path = Path(model).resolve()
    label = f"{path.parent.name}/{path.name}" if path.name in ("best", "last") else path.name
    return label, lambda image, mask: inpainter(image, mask, strategy="whole")


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
) -> Report:
    """Evaluate a trained model beside the classical methods.

    Args:
        model: a name or a path, as for :meth:`Inpainter.load`.
        data: folder of pictures; None = held-out built-in scenes.
        masks: recipe of the masks, "thin", "medium" or "thick".
        sizes: sides of the pictures in pixels, a condition each; the training size and twice that are telling.
        count: pictures of each size.
        out: folder for ``report.json`` and ``report.png``; None = write nothing.
        seed: of pictures and masks.
        with_photographs: add the photographs of :func:`photographs` at the largest size, as a condition.
        progress: show a progress bar.
        device: where the model runs; None = a GPU if there is one.

    Returns:
        The report.

    Raises:
        UserError: a model, folder or recipe that does not exist, or no pictures or too small ones asked for.
    """
    if count < 1 or not sizes or min(sizes) < LEAST_SIZE:
        raise UserError(f"ask for at least one picture of at least {LEAST_SIZE} pixels, not {count} of {tuple(sizes)}")
    if seed < 0:
        raise UserError(f"seed is {seed}: give 0 or more")
    if out is not None:
        _made(out)  # before the work, not after it
    label, network = _network(model, device)
    methods = {label: network, **BASELINES}
    samples = [sample for size in dict.fromkeys(sizes) for sample in evaluation_set(data, count, size, masks, seed)]
    report = evaluate(methods, samples, progress)
    if with_photographs:
        report |= evaluate(methods, photographs(max(sizes)), progress, "photographs")
    asked = {"model": label, "data": data or "held-out built-in scenes", "masks": masks, "sizes": list(sizes)}
    report.settings = asked | {"count": count, "seed": seed} | report.settings
    if out is not None:
        report.save(out)
    return report


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
