"""The capstone of chapter 13: prepares a folder of photographs, and marks what comes of it, 20 points.

    python -m lama_minimal.capstone SUBMISSION [SUBMISSION …] [--eye 2 1 2 2]

Twelve points are checked here, one each (:data:`CHECKS`); eight are given by a teacher who looks (:data:`EYE`). A
submission is a folder; what else lies in it is not looked at::

    account.md                                one page
    pictures.json, held_out/                  from prepare(); the training pictures themselves stay at home
    run/settings.json, log.csv, last/         from lama-minimal train; of last/ generator.json and generator.safetensors
    reports/mine/, reports/course/            report.json from lama-minimal evaluate
    sheets/removals.jpg, sheets/failures.jpg  or png, webp

All of it may be hostile: links are not followed, sizes are bounded before anything is read, nothing is unpickled. What
a machine finds are slips, not fraud: who edits ``pictures.json`` by hand is found by asking for the folder.
"""

import argparse
import csv
import hashlib
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from lama_minimal.checkpoint import ARCHITECTURE, GENERATOR, load_generator
from lama_minimal.classical import telea
from lama_minimal.config import DEFAULT_MODEL, GeneratorSettings, Settings, UserError, check, from_dict
from lama_minimal.data import evaluation_set, find_images, read_image
from lama_minimal.inference import Inpainter, save_image
from lama_minimal.metrics import Interval, paired_difference
from lama_minimal.models import build_generator, count_parameters

LEAST_TRAINING, LEAST_HELD_OUT, MOST_HELD_OUT = 30, 12, 200
"""Pictures."""
LEAST_STEPS, WORDS = 100, range(150, 601)
LARGEST_TEXT, LARGEST_PICTURE, LARGEST_WEIGHTS = 16 * 2**20, 20 * 2**20, 512 * 2**20
"""Bytes of a file."""
MOST_PIXELS, LARGEST_SIDE = 12_000_000, 1024
"""Of a picture; of the pictures that are measured again."""
ALIKE = 4
"""Bits of 64: two pictures whose looks differ in so many or fewer are the same scene."""

EYE: dict[str, tuple[str, str, str]] = {
    "question and pictures": (
        "says why these pictures, where they come from, whose they are and who is on them; how near-duplicates were "
        "kept from straddling the split",
        "says what the pictures show, but nothing of rights, people or the split",
        "a folder without a word about it",
    ),
    "numbers read rightly": (
        "reads better, worse or undecided off the paired interval, names the classical methods beside it, and says "
        "what so few pictures cannot show",
        "quotes intervals but judges by the means, or leaves one of the rivals out",
        "claims an improvement that the intervals do not bear out",
    ),
    "failures": (
        "failures chosen by a rule (the worst by error, say), a cause named for each, a remedy tried",
        "failures shown, causes guessed, nothing tried",
        "only successes, or pictures without a word",
    ),
    "one decision": (
        "one choice (loss, rate, steps, crop) was tried both ways and decided by a measurement; the next step follows",
        "choices are named and reasoned, none is measured",
        "the command as it stood in the notebook, no reason given",
    ),
}
"""What a teacher judges by eye: for 2 points, for 1, for none."""


# ------------------------------------------------------------------------------------------------------------ preparing


def look(image: np.ndarray) -> int:
    """64 bits of how a picture (H, W, 3) uint8 looks: is each of 8×8 places brighter than its left neighbour?"""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def prepare(source: str | Path, out: str | Path, held_out: int = 24, side: int = 512) -> dict[str, int]:
    """Make ``out/train``, ``out/held_out`` and ``out/pictures.json`` of a folder of photographs, which stays as it is.

    Unreadable pictures are left out, and so is all but one of those that look alike, such as a burst: else a network is
    tested on what it was trained on. Division and names follow from the pixels alone.

    Args:
        source: folder of pictures, searched recursively.
        out: folder of the submission.
        held_out: pictures kept from training.
        side: longer shorter sides are reduced to it, pixels; pictures below a quarter of it are left out.

    Returns:
        Number of pictures by what became of them: train, held_out, unreadable, small, alike.

    Raises:
        UserError: no pictures, too few, or ``out`` holds prepared pictures already.
    """
    out, found = Path(out), {"unreadable": 0, "small": 0, "alike": 0}
    if (out / "pictures.json").exists():
        raise UserError(f"{out} holds prepared pictures already: choose another folder")
    kept: dict[str, np.ndarray] = {}
    looks: list[int] = []
    for path in find_images(source):
        try:
            image = read_image(path)[0]
        except UserError:
            found["unreadable"] += 1
            continue
        scale = side / min(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        bits = look(image)
        if scale > 4:
            found["small"] += 1
        elif any((bits ^ other).bit_count() <= 2 * ALIKE for other in looks):  # a margin for what JPEG will change
            found["alike"] += 1
        else:
            looks.append(bits)
            kept[hashlib.sha256(image.tobytes()).hexdigest()[:16]] = image
    if len(kept) <= held_out:
        raise UserError(f"{len(kept)} usable pictures, {held_out} of them held out: add pictures, or hold out fewer")
    listed: dict[str, dict[str, dict[str, str]]] = {"train": {}, "held_out": {}}
    for number, (name, image) in enumerate(sorted(kept.items())):
        part = "held_out" if number < held_out else "train"
        path = out / part / f"{name}.jpg"
        save_image(image, path)
        listed[part][path.name] = {"sha256": _digest(path), "look": f"{look(read_image(path)[0]):016x}"}
    (out / "pictures.json").write_text(json.dumps(listed, indent=1) + "\n")
    return {part: len(names) for part, names in listed.items()} | found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -------------------------------------------------------------------------------------- reading what may be hostile


def _file(root: Path, name: str, largest: int = LARGEST_TEXT) -> Path:
    """A regular file of a submission, reached without following a link."""
    path = root
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():
            raise UserError(f"{name} is a link: hand in the file itself")
    if not path.is_file():
        raise UserError(f"{name} is missing")
    if path.stat().st_size > largest:
        raise UserError(f"{name} has more than {largest >> 20} MB")
    return path


def _json(root: Path, name: str) -> dict[str, Any]:
    text = _file(root, name).read_text(encoding="utf-8", errors="replace")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{name} is not what the package wrote")
    return values


def _picture(root: Path, name: str) -> np.ndarray:
    path = _file(root, name, LARGEST_PICTURE)
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as picture:
            pixels = math.prod(picture.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{name} is no JPEG, PNG or WebP picture") from None
    if pixels > MOST_PIXELS:
        raise UserError(f"{name} has more than {MOST_PIXELS // 10**6} megapixels")
    return read_image(path)[0]


def _listed(root: Path, part: str) -> dict[str, tuple[str, int]]:
    """Name → digest and look of the pictures of ``train`` or ``held_out``, as ``pictures.json`` has them."""
    try:
        entries = _json(root, "pictures.json")[part].items()
        return {name: (str(entry["sha256"]), int(entry["look"], 16)) for name, entry in entries}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise (
            error if isinstance(error, UserError) else UserError("pictures.json is not what prepare() wrote")
        ) from None


def _held_out(root: Path) -> dict[str, tuple[str, int]]:
    """Name → digest and look of the held-out pictures, from their pixels; all are regular files that can be read."""
    folder = root / "held_out"
    if folder.is_symlink() or not folder.is_dir():
        raise UserError("held_out/ is missing")
    names = sorted(path.name for path in islice(folder.iterdir(), MOST_HELD_OUT + 1) if path.name[0] != ".")
    if len(names) > MOST_HELD_OUT:
        raise UserError(f"held_out/ has more than {MOST_HELD_OUT} files")
    looks = {name: look(_picture(root, f"held_out/{name}")) for name in names}
    return {name: (_digest(folder / name), bits) for name, bits in looks.items()}


class Measured(NamedTuple):
    """What counts of a ``report.json``: its first condition."""

    asked: dict[str, Any]
    methods: list[str]
    errors: dict[str, dict[str, float]]
    """method → picture → error in the hole."""
    told: list[float]
    """All values and ends of intervals that it states for all pictures together."""


def _report(root: Path, which: str) -> Measured:
    name = f"reports/{which}/report.json"
    report = _json(root, name)
    try:
        condition = next(iter(report["conditions"].values()))
        asked = {key: report["settings"][key] for key in ("masks", "sizes", "count", "seed")}
        methods = [str(method) for method in report["methods"]]
        errors = {
            method: {str(image["name"]): float(image["scores"][method]["hole_error"]) for image in condition["images"]}
            for method in methods
        }
        intervals = [found for measures in condition["methods"].values() for found in measures.values()]
        intervals += condition["hole_error_difference"]["all"].values()
        told = [float(found[end] or 0) for found in intervals for end in Interval._fields]
        mean = float(condition["methods"][methods[0]]["hole_error"]["value"])
        values = list(errors[methods[0]].values())
        sound = values and all(0 <= value <= 1 for value in values) and abs(np.mean(values) - mean) < 1e-4
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, StopIteration):
        raise UserError(f"{name} is not what lama-minimal evaluate wrote") from None
    if not sound:
        raise UserError(f"{name}: its mean is not that of its pictures")
    return Measured(asked, methods, errors, told)


# ------------------------------------------------------------------------------------------------------------- checks


def training_pictures(root: Path) -> str:
    """At least 30 training pictures, listed."""
    count = len(_listed(root, "train"))
    if count < LEAST_TRAINING:
        raise UserError(f"{count} pictures, {LEAST_TRAINING} are asked for")
    return f"{count} pictures"


def held_out_pictures(root: Path) -> str:
    """At least 12 held-out pictures, handed in, byte by byte as listed."""
    found, listed = _held_out(root), _listed(root, "held_out")
    if {name: digest for name, (digest, _) in found.items()} != {name: digest for name, (digest, _) in listed.items()}:
        raise UserError("held_out/ does not hold what pictures.json lists")
    if len(found) < LEAST_HELD_OUT:
        raise UserError(f"{len(found)} pictures, {LEAST_HELD_OUT} are asked for")
    return f"{len(found)} pictures"


def split_without_leak(root: Path) -> str:
    """No held-out picture, and none that looks like it, among the training pictures."""
    training, held_out = _listed(root, "train").values(), _held_out(root)
    if not training or not held_out:
        raise UserError("no pictures to compare")
    known = {digest for digest, _ in training}
    nearest = {name: min((bits ^ other).bit_count() for _, other in training) for name, (_, bits) in held_out.items()}
    leaked = [name for name, (digest, _) in held_out.items() if digest in known or nearest[name] <= ALIKE]
    if leaked:
        raise UserError(f"{len(leaked)} of {len(held_out)} are among the training pictures, such as {leaked[0]}")
    return f"the closest pair differs in {min(nearest.values())} of 64 bits"


def settings_of_the_run(root: Path) -> str:
    """A run that starts from a named model and trains on the folder."""
    run = _settings(root)
    if run.run.start is None or run.data.folder is None:
        raise UserError("this run starts from nothing, or trains on no folder: add --start course, --data FOLDER")
    return f"from {run.run.start}, crops of {run.data.size} pixels"


def _settings(root: Path) -> Settings:
    return from_dict(_json(root, "run/settings.json"))


def log_of_the_run(root: Path) -> str:
    """A log of at least 100 steps, all numbers finite."""
    rows = _log(root)
    if [row.get("step") for row in rows] != list(range(1, len(rows) + 1)):
        raise UserError("run/log.csv has gaps")
    if len(rows) < LEAST_STEPS:
        raise UserError(f"{len(rows)} steps, {LEAST_STEPS} are asked for")
    return f"{len(rows)} steps"


def _log(root: Path) -> list[dict[str, float]]:
    path = _file(root, "run/log.csv")
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (TypeError, ValueError, csv.Error):
        raise UserError("run/log.csv is not what lama-minimal train wrote") from None
    if not all(math.isfinite(value) for row in rows for value in row.values()):
        raise UserError("run/log.csv has numbers that are none")
    return rows


def weights(root: Path) -> str:
    """Weights that load, are those described beside them, and fill a hole."""
    about = _json(root, f"run/last/{ARCHITECTURE}")
    file = _file(root, f"run/last/{GENERATOR}", LARGEST_WEIGHTS)
    settings = from_dict(about.get("generator"), GeneratorSettings)
    check(Settings(generator=settings))
    if max(settings.width / 2, settings.blocks, settings.downsamplings * 8, settings.max_channels / 32) > 64:
        raise UserError("the described network is larger than any of the course")
    image, mask = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    try:
        with torch.device("meta"):  # shapes without memory
            size = 2 * count_parameters(build_generator(**vars(settings)))
        if size > file.stat().st_size:
            raise UserError("the described network is larger than its file")
        with tempfile.TemporaryDirectory() as folder:  # these two files and nothing else
            shutil.copyfile(file, Path(folder, GENERATOR))
            Path(folder, ARCHITECTURE).write_text(json.dumps(about | {"training_size": 256}))
            generator = load_generator(folder)
        answer = Inpainter(generator, device="cpu", precision="float32").predict(image, mask)
    except (RuntimeError, ValueError) as error:  # settings in range that make no network
        raise error if isinstance(error, UserError) else UserError("the network cannot be run") from None
    if not answer.isfinite().all():
        raise UserError("the network answers with numbers that are none")
    return f"{count_parameters(generator):,} parameters"


def own_report(root: Path) -> str:
    """The model, measured on all held-out pictures and no others."""
    measured, names = _report(root, "mine"), set(_held_out(root))
    errors = measured.errors[measured.methods[0]]
    if set(errors) != names:
        strangers = len(set(errors) - names)
        raise UserError(f"of {len(errors)} pictures measured {strangers} are not in held_out/: measure all of it")
    return f"error in the hole {np.mean(list(errors.values())):.4f}, {len(errors)} pictures"


def rival_report(root: Path) -> str:
    """The model it started from, on the same pictures and holes."""
    mine, rival = _report(root, "mine"), _report(root, DEFAULT_MODEL)
    if rival.methods[0] != DEFAULT_MODEL:
        raise UserError(f"reports/{DEFAULT_MODEL} is about {rival.methods[0][:40]}")
    theirs = rival.errors.get("Telea", {})
    same = mine.errors.get("Telea", {}).keys() == theirs.keys() and theirs and mine.asked == rival.asked
    if not same or max(abs(mine.errors["Telea"][name] - theirs[name]) for name in theirs) > 1e-3:
        raise UserError("both reports must ask the same: --masks, --sizes, --count, --seed, --data")
    found = gain(root)
    verdict = "better" if found.high < 0 else "worse" if found.low > 0 else "undecided"
    return f"difference {found.value:+.4f} ({found.low:+.4f} … {found.high:+.4f}): {verdict}"


def gain(root: Path) -> Interval:
    """Error of the model minus that of the model it started from, paired, with its interval; below 0 is better."""
    mine, rival = _report(root, "mine"), _report(root, DEFAULT_MODEL)
    first, second = mine.errors[mine.methods[0]], rival.errors[rival.methods[0]]
    names = [name for name in first if name in second]
    return paired_difference(np.array([first[name] for name in names]), np.array([second[name] for name in names]))


def measured_again(root: Path) -> str:
    """Telea's method, run here on the held-out pictures, gets the errors that the report says."""
    measured, count = _report(root, "mine"), len(_held_out(root))
    asked, said = measured.asked, measured.errors.get("Telea", {})
    size = asked["sizes"][0] if isinstance(asked["sizes"], list) and asked["sizes"] else 0
    fits = type(size) is int and 16 <= size <= LARGEST_SIDE and asked["masks"] in ("thin", "medium", "thick")
    if not fits or type(asked["seed"]) is not int or not 0 <= asked["seed"] < 2**32:
        raise UserError("its settings are not those of lama-minimal evaluate")
    samples = evaluation_set(root / "held_out", count, size, asked["masks"], asked["seed"])
    again = {s.name: np.abs(telea(s.image, s.mask).astype(float) - s.image)[s.mask].mean() / 255 for s in samples}
    if said.keys() != again.keys() or not said:
        raise UserError("the report is about other pictures than held_out/")
    apart = max(abs(again[name] - said[name]) for name in said)
    if apart > 0.01:
        raise UserError(f"Telea's errors differ from the report's by up to {apart:.3f}")
    return f"Telea's errors agree within {apart:.4f}"


def sheets(root: Path) -> str:
    """A sheet of removals and one of failures, both readable."""
    for what in ("removals", "failures"):
        found = [name for name in (f"sheets/{what}.{end}" for end in ("jpg", "png", "webp")) if (root / name).exists()]
        shape = _picture(root, found[0] if found else f"sheets/{what}.jpg").shape
        if min(shape[:2]) < 128:
            raise UserError(f"sheets/{what} is too small to see anything: {shape[1]} × {shape[0]} pixels")
    return "both there"


def _account(root: Path) -> str:
    return _file(root, "account.md").read_text(encoding="utf-8", errors="replace")


def length_of_the_account(root: Path) -> str:
    """150 to 600 words."""
    count = len(_account(root).split())
    if count not in WORDS:
        raise UserError(f"{count} words")
    return f"{count} words"


def quoted_numbers(root: Path) -> str:
    """At least three numbers with three or more decimals, all of them in the reports, the settings or the log."""
    known = [value for which in ("mine", DEFAULT_MODEL) for value in _report(root, which).told] + list(gain(root))
    known += [value for part in vars(_settings(root)).values() for value in vars(part).values()]
    known += [row.get(name) for row in _log(root) for name in ("hole_error", "gradient_energy")]
    known = [abs(value) for value in known if isinstance(value, float) and math.isfinite(value)]
    quoted = re.findall(r"(?<![\w.])(\d{0,3}\.\d{3,8})(?!\w)", _account(root))
    wrong = [number for number in quoted if not any(_rounds_to(value, number) for value in known)]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(quoted)} are in no report, such as {wrong[0]}")
    if len(quoted) < 3:
        raise UserError(f"{len(quoted)} numbers quoted")
    return f"{len(quoted)} numbers, all found"


def _rounds_to(value: float, number: str) -> bool:
    return abs(value - float(number)) <= 0.51 * 10.0 ** -len(number.partition(".")[2])


CHECKS: tuple[Callable[[Path], str], ...] = (
    training_pictures,
    held_out_pictures,
    split_without_leak,
    settings_of_the_run,
    log_of_the_run,
    weights,
    own_report,
    rival_report,
    measured_again,
    sheets,
    length_of_the_account,
    quoted_numbers,
)
"""One point each: they say what they found, or raise a UserError with what is wrong."""


class Line(NamedTuple):
    """What became of a check."""

    name: str
    points: int
    words: str


def mark(submission: str | Path) -> list[Line]:
    """Carry out all checks on a submission.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(submission)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    lines = []
    for task in CHECKS:
        try:
            points, words = 1, task(root)
        except (UserError, OSError) as error:
            points, words = 0, str(error)
        shown = "".join(sign if sign.isprintable() else "?" for sign in words)[:160]
        lines.append(Line(task.__name__.replace("_", " "), points, shown))
    return lines


def rubric() -> str:
    """The whole rubric as a table in Markdown."""
    rows = ["| by the machine: 1 point each | what is asked |", "|---|---|"]
    rows += [f"| {task.__name__.replace('_', ' ')} | {(task.__doc__ or '').rstrip('.')} |" for task in CHECKS]
    rows += ["", "| by eye | 2 points | 1 point | 0 points |", "|---|---|---|---|"]
    rows += [f"| {name} | {' | '.join(anchors)} |" for name, anchors in EYE.items()]
    return "\n".join(rows)


def grade(submission: str | Path, eye: Sequence[float] = ()) -> str:
    """What :func:`mark` finds as text, with a teacher's points for :data:`EYE`, in its order, where they are given.

    Raises:
        UserError: no such folder, or points that are none.
    """
    if eye and (len(eye) != len(EYE) or not all(0 <= points <= 2 for points in eye)):
        raise UserError(f"by eye there are {len(EYE)} numbers from 0 to 2: {', '.join(EYE)}")
    lines = mark(submission)
    found = sum(line.points for line in lines)
    told = [f"{line.points} of 1  {line.name}: {line.words}" for line in lines]
    told += [f"{points:g} of 2  {name}, by eye" for name, points in zip(EYE, eye, strict=False)]
    told.append(f"{found} of {len(CHECKS)} by the machine")
    total = f"{found + sum(eye):g} of {len(CHECKS) + 2 * len(EYE)} points"
    return "\n".join([*told, total if eye else f"by eye, 0 to 2 each: {', '.join(EYE)}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m lama_minimal.capstone", description=__doc__.split("\n\n")[0])
    parser.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION", help="folder of a submission")
    parser.add_argument("--eye", nargs="+", type=float, default=(), help=f"your points: {', '.join(EYE)}")
    chosen = parser.parse_args(arguments)
    try:
        for submission in chosen.submissions:
            print(f"{submission}\n{grade(submission, chosen.eye)}\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
