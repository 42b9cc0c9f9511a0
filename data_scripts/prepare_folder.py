"""Turn any folder or archive of pictures into checked, shuffled shards that training streams.

Every picture is read to its last pixel. Broken and tiny ones go, and so do exact duplicates: pictures whose decoded
pixels, turned upright, are equal, whatever their names and file formats. The rest is shuffled, divided into training
and validation, and written as tar files in the order of their keys (the WebDataset convention):

    train-000000.tar   000000000.jpg, 000000000.label.png, 000000001.png, …   the original bytes
    val-000000.tar     …
    index.json         number of samples, length and SHA-256 of each shard, what was left out
    names.jsonl        which key was which file

Order and division follow from the pixels and the seed alone: the same pictures make the same shards, byte for byte,
whatever ``--jobs`` is and wherever they lie. A run that was killed goes on where it stopped.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import MADE, begin, files_below, finish, is_picture, over_all, parser, positive, run, unpack, write_json

from lama_minimal.config import UserError

LABEL = ".label.png"


@dataclass(frozen=True)
class Examined:
    """What reading a picture has shown."""

    path: str
    """Relative to the folder, with / between its parts."""
    size: int
    """Bytes of the file."""
    modified: int
    """When the file was last written, nanoseconds: by this and its size a later run knows it again."""
    label: str = ""
    """Its label, an absolute path; empty = none."""
    label_size: int = 0
    """Bytes of the label."""
    pixels: str = ""
    """SHA-256 of its shape and pixels, hexadecimal."""
    fault: str = ""
    """Why it is left out: "broken: …", "tiny: …" or "label: …"; empty = it is not."""


@dataclass(frozen=True)
class Shard:
    """A tar file to be written: its name and its samples with their keys."""

    name: str
    samples: list[tuple[str, Examined]]

    @property
    def plan(self) -> str:
        """A digest of what shall be in it."""
        return hashlib.sha256(json.dumps([(key, asdict(sample)) for key, sample in self.samples]).encode()).hexdigest()


# -------------------------------------------------------------------------------------------------- reading pictures


def pixel_digest(path: Path) -> tuple[str, tuple[int, int]]:
    """SHA-256 of a picture's upright pixels, with its height and width; files with equal pixels have equal digests.

    Raises:
        UserError: it cannot be read.
    """
    from lama_minimal.data import read_image

    image, alpha = read_image(path)
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image)
    if alpha is not None and alpha.min() < 255:
        digest.update(alpha)
    return digest.hexdigest(), image.shape[:2]


def label_fault(path: Path, height: int, width: int) -> str:
    """What is wrong with a label; empty = nothing."""
    from PIL import Image

    from lama_minimal.data import read_image

    try:
        shape = read_image(path)[0].shape[:2]
        with Image.open(path) as label:
            if label.format != "PNG" or len(label.getbands()) != 1:
                return f"label: {path} is not a PNG with one class number a pixel"
    except UserError as error:
        return f"label: {error}"
    return "" if shape == (height, width) else f"label: {path} has another size than its picture"


def look(relative: str, folder: Path, labels: Path | None) -> Examined:
    """What can be said of a picture without reading it."""
    path = folder / relative
    label = path.with_name(path.stem + LABEL) if labels is None else (labels / relative).with_suffix(".png")
    state = path.stat()
    found = Examined(relative, state.st_size, state.st_mtime_ns)
    if not label.exists():
        return found
    return replace(found, label=os.path.abspath(label), label_size=label.stat().st_size)


def examine(found: Examined, folder: Path, least: int) -> Examined:
    """Read one picture and its label."""
    path = folder / found.path
    try:
        pixels, (height, width) = pixel_digest(path)
    except UserError as error:
        return replace(found, fault=f"broken: {error}")
    if min(height, width) < least:
        fault = f"tiny: {path} has {width} × {height} pixels"
    else:
        fault = label_fault(Path(found.label), height, width) if found.label else ""
    return replace(found, pixels=pixels, fault=fault)


def examine_all(folder: Path, names: list[str], chosen: Namespace, journal: Path) -> list[Examined]:
    """Read all pictures; what an earlier run has read and what has not changed since comes from its journal."""
    done: dict[Examined, Examined] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                found = Examined(**json.loads(line))
            except (ValueError, TypeError):  # the line during which the run was killed
                continue
            done[replace(found, pixels="", fault="")] = found
    seen = [look(name, folder, chosen.labels) for name in names]
    task = partial(examine, folder=folder, least=chosen.least)
    rest = [state for state in seen if state not in done]
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends the line that a kill may have cut
        for before, found in zip(rest, over_all(task, rest, chosen.jobs, "reading"), strict=True):
            done[before] = found
            file.write(json.dumps(asdict(found)) + "\n")
    return [done[state] for state in seen]


# ------------------------------------------------------------------------------------------------- order and division


def without_duplicates(found: Iterable[Examined]) -> tuple[list[Examined], dict[str, int], list[str]]:
    """Good pictures, of equal ones the first; how many were left out for which reason, and some of the reasons."""
    kept: dict[str, Examined] = {}
    dropped = {"broken": 0, "tiny": 0, "label": 0, "duplicate": 0}
    reasons = []
    for sample in found:
        fault = sample.fault
        if not fault and sample.pixels in kept:
            fault = f"duplicate: {sample.path} is {kept[sample.pixels].path}"
        if fault:
            dropped[fault.partition(":")[0]] += 1
            reasons.append(fault)
        else:
            kept[sample.pixels] = sample
    return list(kept.values()), dropped, reasons


def shuffle(samples: list[Examined], seed: int) -> list[Examined]:
    """A random order that depends on pixels and seed alone: adding a picture moves no other past its neighbours."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{seed} {sample.pixels}".encode()).digest())


def divide(samples: list[Examined], validation: float) -> tuple[list[Examined], list[Examined]]:
    """Training and validation: the last of the shuffled pictures, a share, or so many if it is 1 or more."""
    count = int(validation) if validation >= 1 else round(validation * len(samples))
    if count >= len(samples):
        raise UserError(f"--val {validation:g} leaves none of {len(samples)} pictures for training; give less")
    return samples[: len(samples) - count], samples[len(samples) - count :]


def plan_shards(split: str, samples: list[Examined], first: int, most: int, in_bytes: bool) -> list[Shard]:
    """Cut a split into shards of at most ``most`` samples, or bytes (but one sample); keys count from ``first``."""
    shards: list[Shard] = []
    filled = most
    for number, sample in enumerate(samples, first):
        cost = sample.size + sample.label_size if in_bytes else 1
        if not shards or filled + cost > most:
            shards.append(Shard(f"{split}-{len(shards):06d}.tar", []))
            filled = 0
        shards[-1].samples.append((f"{number:09d}", sample))
        filled += cost
    return shards


# ------------------------------------------------------------------------------------------------------ writing shards


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.file, self.digest, self.length = path.open("wb"), hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, block: bytes) -> int:
        self.digest.update(block)
        self.length += len(block)
        return self.file.write(block)

    def close(self) -> None:
        if not self.file.closed:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        super().close()


def members(shard: Shard, folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Name, source and length of each member of a shard, in order."""
    for key, sample in shard.samples:
        path = folder / sample.path
        yield key + path.suffix.lower(), path, sample.size
        if sample.label:
            yield key + LABEL, Path(sample.label), sample.label_size


def write_shard(shard: Shard, folder: Path, out: Path) -> dict[str, Any]:
    """Write a shard unless it is there; returns its line of the index."""
    target, note = out / shard.name, out / f".{shard.name}.draft"
    line = {"name": shard.name, "plan": shard.plan}
    if target.exists() and note.exists():
        before = json.loads(note.read_text())
        if before["plan"] == line["plan"] and before["bytes"] == target.stat().st_size:
            return before
    target.unlink(missing_ok=True)
    part = out / f".{shard.name}.part.draft"
    stream = _Hashing(part)
    with stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for name, path, size in members(shard, folder):
            content = path.read_bytes()
            if len(content) != size:
                raise UserError(f"{path} has changed while it was being read; run this again")
            header = tarfile.TarInfo(name)  # no dates, owners or rights: the same pictures, the same bytes
            header.size = size
            tar.addfile(header, io.BytesIO(content))
    labels = sum(bool(sample.label) for _, sample in shard.samples)
    line |= {"samples": len(shard.samples), "labels": labels, "bytes": stream.length}
    line["sha256"] = stream.digest.hexdigest()
    write_json(note, line)
    part.replace(target)
    return line


# -------------------------------------------------------------------------------------------------------- command line


def shard_size(text: str) -> tuple[int, bool]:
    """A number of samples, such as 1000, or megabytes, such as 500MB; for argparse."""
    number, in_bytes = text.upper().removesuffix("MB"), text.upper().endswith("MB")
    if not number.isdecimal() or int(number) < 1:
        raise ArgumentTypeError(f"{text!r} is neither a number of samples, such as 1000, nor a size, such as 500MB")
    return int(number) * (10**6 if in_bytes else 1), in_bytes


def source_folder(source: Path, out: Path) -> Path:
    """The folder of pictures: the given one, or what the given archive holds.

    Raises:
        UserError: the archive is damaged or not safe.
    """
    if source.is_dir():
        return source
    # Pictures are compressed already: what grows twentyfold is none.
    return unpack(source, out / ".unpacked.draft", limit=20 * source.stat().st_size + (64 << 20))


def fingerprint(source: Path) -> str:
    """What a folder or archive looks like from outside: names, sizes, dates."""
    paths = [source / name for name in listing(source)] if source.is_dir() else [source]
    states = [(str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def listing(folder: Path) -> list[str]:
    """The pictures of a folder by their relative paths, sorted; hidden ones and labels are none."""
    names = (path for path in files_below(folder) if is_picture(path) and not path.name.endswith(LABEL))
    shown = (path for path in names if not any(part.startswith(".") for part in path.parts))
    return [path.as_posix() for path in shown if (folder / path).is_file()]


def make_shards(chosen: Namespace, settings: dict[str, Any]) -> None:
    """Everything between the arguments and the finished folder."""
    out = chosen.out
    folder = source_folder(chosen.source, out)
    names = listing(folder)[: chosen.limit]
    if not names:
        raise UserError(f"no pictures in {chosen.source}")
    found = examine_all(folder, names, chosen, out / ".examined.draft")
    samples, dropped, reasons = without_duplicates(found)
    if not samples:
        raise UserError(f"none of the {len(names)} pictures can be used; for example: {reasons[0]}")
    train, val = divide(shuffle(samples, chosen.seed), chosen.val)
    shards = plan_shards("train", train, 0, *chosen.shard_size)
    shards += plan_shards("val", val, len(train), *chosen.shard_size)
    for path in out.glob("*.tar"):  # of a plan for a source that has changed meanwhile
        if path.name not in {shard.name for shard in shards}:
            path.unlink()
    needed = sum(sample.size + sample.label_size + 2048 for sample in samples)
    done = sum(path.stat().st_size for path in out.glob("*.tar"))
    if needed - done > (free := shutil.disk_usage(out).free):
        raise UserError(f"{out} has {free >> 20} MiB free, the shards need {(needed - done >> 20) + 1}; make room")
    lines = list(over_all(partial(write_shard, folder=folder, out=out), shards, chosen.jobs, "writing shards"))
    with (out / "names.jsonl").open("w", encoding="utf-8") as file:
        for shard in shards:
            for key, sample in shard.samples:
                file.write(json.dumps({"shard": shard.name, "key": key, "source": sample.path}) + "\n")
    index = [{key: value for key, value in line.items() if key != "plan"} for line in lines]
    write_json(out / "index.json", {"samples": len(samples), "dropped": dropped, "shards": index})
    for reason in reasons[:10]:
        print(f"left out: {reason}")
    result = {"pictures": len(samples), "train": len(train), "val": len(val), "shards": len(shards), **dropped}
    last = sum(shard.name.startswith("train") for shard in shards) - 1
    pattern = out / (f"train-{{000000..{last:06d}}}.tar" if last else "train-000000.tar")
    seen = {"source": fingerprint(chosen.source)}
    finish(out, settings, result | seen, f"lama-minimal train --data '{pattern}' --out runs/mine")


def main(arguments: list[str] | None = None) -> None:
    """Make the shards."""
    options = parser(__doc__, "shards")
    options.add_argument("source", type=Path, help="folder of pictures, searched recursively, or a zip or tar of one")
    options.add_argument("--labels", type=Path, help="folder with a/b.png for a/b.jpg; default: a/b.label.png beside")
    options.add_argument("--val", type=float, default=0.05, help="share, or if 1 or more number, held out (0.05)")
    options.add_argument("--least", type=positive, default=256, help="least shorter side, pixels (default: 256)")
    options.add_argument("--shard-size", type=shard_size, default="1000", help="samples, or MB as in 500MB (1000)")
    options.add_argument("--seed", type=int, default=0, help="which order and division (default: 0)")
    chosen = options.parse_args(arguments)
    if not 0 <= chosen.val:
        raise UserError("--val is a share between 0 and 1, or a number of pictures")
    if chosen.labels is not None and not chosen.labels.is_dir():
        raise UserError(f"no such folder of labels: {chosen.labels}")
    settings = {"source": str(chosen.source.resolve()), "labels": str(chosen.labels and chosen.labels.resolve())}
    settings |= {name: getattr(chosen, name) for name in ("val", "least", "seed", "limit")}
    settings["shard_size"] = list(chosen.shard_size)
    if not chosen.source.exists():
        raise UserError(f"no such folder or archive: {chosen.source}")
    if begin(chosen.out, settings):
        make_shards(chosen, settings)
    elif json.loads((chosen.out / MADE).read_text())["source"] != fingerprint(chosen.source):
        raise UserError(f"but {chosen.source} has changed since; choose another --out to have the changes in it")


if __name__ == "__main__":
    run(main)
