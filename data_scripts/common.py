"""What the data scripts share: arguments, terms, archives, the folder that is made whole or not at all.

A script fills ``--out`` in hidden drafts, gives the parts their names when they are complete, and last of all writes
``made.json``. A folder with it is finished; one with ``made.json.part`` is an interrupted run, which the same command
takes up again; any other folder with something in it is somebody else's and is left alone.
"""

import argparse
import bz2
import errno
import gzip
import json
import lzma
import os
import shutil
import sys
import tarfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from tqdm import tqdm

from lama_minimal import download
from lama_minimal.config import UserError
from lama_minimal.download import PUBLISHED, cache_folder, fetch_file, fetch_weights, unzip, verify_file

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""Files that count as pictures, whatever the case of the letters; as in lama_minimal.data."""
MADE = "made.json"
_BLOCK = 1 << 20
_MAGIC: dict[bytes, Callable[[Path], IO[bytes]]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}

tqdm.monitor_interval = 0  # its thread would be running when processes are forked

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Archive:
    """A file that somebody publishes. Only what its publisher, or a library that fetches it, states is filled in."""

    url: str
    name: str
    """Its file name, by which ``--archive`` and ``--mirror`` know it."""
    about: str
    """Its size in words, for the person who is about to wait for it."""
    most: int
    """Bytes that it may unpack to; more is taken for a decompression bomb."""
    size: int | None = None
    """Published length in bytes."""
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and on what terms."""

    title: str
    terms: str
    """Licence and conditions, as far as they are known here."""
    page: str
    """Where a person finds the terms and the files."""
    archives: tuple[Archive, ...]


# -------------------------------------------------------------------------------------------------- the command line


def parser(description: str, out: str, limit: str | None = "pictures") -> argparse.ArgumentParser:
    """The arguments that all scripts have.

    Args:
        description: what the script does; its first line is shown by ``--help``.
        out: default of ``--out``.
        limit: what ``--limit`` counts; None = neither that nor ``--jobs``.
    """
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--out", type=Path, default=Path(out), help=f"folder to make (default: {out})")
    if limit:
        made.add_argument("--limit", type=positive, metavar="N", help=f"take N {limit} only")
        jobs = min(8, os.cpu_count() or 1)
        made.add_argument("--jobs", type=positive, default=jobs, metavar="N", help=f"parallel work (default: {jobs})")
    return made


def add_sources(made: argparse.ArgumentParser) -> None:
    """Arguments of scripts that fetch something."""
    made.add_argument("--archive", type=Path, nargs="+", default=[], metavar="FILE", help="files fetched by hand")
    made.add_argument("--mirror", metavar="URL", help="another folder on the web that holds the same files")


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def run(main: Callable[[], None]) -> None:
    """Run a script: a user's mistake, a dead link, a full disk end in one line and exit code 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no valid text
    sys.stderr.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        reason = str(error)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ""
        reason = f"cannot store{where}: {error.strerror}; make room or choose another --out, then run this again"
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    else:
        return
    print(f"{Path(sys.argv[0]).name}: error: {reason}", file=sys.stderr)
    sys.exit(2)


def print_terms(source: Source) -> None:
    """Say what will be fetched, and on what terms, before it is."""
    print(f"{source.title}\n  terms: {source.terms}\n  page:  {source.page}")
    for archive in source.archives:
        print(f"  file:  {archive.name}, {archive.about}, from {archive.url}")
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------- the folder to make


def begin(out: Path, settings: dict[str, Any]) -> bool:
    """Claim ``out`` for a run with these settings.

    Returns:
        False if the folder is complete already; this has been said.

    Raises:
        UserError: the folder holds something else, or was made with other settings.
    """
    for name in (MADE, f"{MADE}.part"):
        if not (out / name).exists():
            continue
        try:
            before = json.loads((out / name).read_text())["settings"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{out / name} is damaged; delete {out} or choose another --out") from error
        if before != json.loads(json.dumps(settings)):
            now, then = (", ".join(f"{key} {value}" for key, value in kind.items()) for kind in (settings, before))
            raise UserError(f"{out} was made with other settings ({then}; now {now}); choose another --out")
        if name == MADE:
            print(f"nothing to do: {out} is complete")
            return False
        return True
    if out.exists() and (not out.is_dir() or any(path.name != f".{MADE}.part.new" for path in out.iterdir())):
        raise UserError(f"{out} exists and was not made by this script; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{MADE}.part", {"settings": settings})
    return True


def finish(out: Path, settings: dict[str, Any], result: dict[str, Any], following: str) -> None:
    """Declare ``out`` complete, clear away the drafts, and print the next command."""
    write_json(out / MADE, {"settings": settings, **result})
    for leftover in (*out.glob(".*.draft"), out / f"{MADE}.part"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    print(f"done: {out}: {', '.join(f'{value} {key}' for key, value in result.items() if isinstance(value, int))}")
    print(f"next: {following}")


def write_json(path: Path, content: Any) -> None:
    """Write a small file in one step: after an interruption it is there whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ fetching, unpacking


def obtain(source: Source, archive: Archive, given: list[Path], mirror: str | None, folder: Path) -> Path:
    """An archive, checked against what is published about it: given by the user, or fetched to ``folder``.

    Raises:
        UserError: it cannot be had or is not the published one, with the page where a person can get it.
    """
    checks = dict(size=archive.size, md5=archive.md5, sha256=archive.sha256)
    hand = [path for path in given if len(source.archives) == 1 or path.name == archive.name]
    if hand:
        if not hand[0].is_file():
            raise UserError(f"no such file: {hand[0]}")
        print(f"checking {hand[0]}", flush=True)
        verify_file(hand[0], **checks)
        return hand[0]
    if given:
        raise UserError(f"--archive also needs {archive.name}, under this name; see {source.page}")
    try:
        return fetch_file(address(archive, mirror), folder / archive.name, **checks)
    except UserError as error:
        raise UserError(by_hand(error, archive, source)) from error


def address(archive: Archive, mirror: str | None) -> str:
    """Where to fetch an archive from."""
    return f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url


def by_hand(error: UserError, archive: Archive, source: Source) -> str:
    """The reason of a failed download, with what a person can do instead."""
    return f"{error}; by hand: get {archive.name} from {source.page} and give it with --archive FILE"


class Remote:
    """A file on a web server as a stream; where the connection breaks, it goes on from that byte.

    For the beginning of archives that are too large to fetch; whole files come with ``fetch_file``, which checks them.
    """

    def __init__(self, url: str) -> None:
        self.url, self.at, self.version, self.response = url, 0, None, None

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        if self.response is not None:
            self.response.close()
        self.response = None

    def _dial(self) -> None:
        """Connect, at the byte reached so far; the same version of the file or none."""
        headers = {"Range": f"bytes={self.at}-", "If-Range": self.version} if self.at and self.version else {}
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity", **headers})
        self.response = urllib.request.urlopen(request, timeout=download.TIMEOUT)
        if self.at and self.response.status != 206:
            raise UserError(f"cannot download {self.url}: the connection broke, and it cannot be resumed; run it again")
        etag = self.response.headers.get("ETag", "W/")
        self.version = self.response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        if self.response.headers.get_content_type() == "text/html":
            raise UserError(f"cannot download {self.url}: the server answers with a web page")

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            UserError: the server does not answer, or no longer with the same file.
        """
        failures = 0
        while True:
            try:
                if self.response is None:
                    self._dial()
                block = self.response.read(size)
                if not block and size and self.response.length:
                    raise ConnectionError(f"the connection broke after {self.at} bytes")
                self.at += len(block)
                return block
            except (HTTPException, OSError) as error:
                self._hang_up()
                failures += 1
                passing = not isinstance(error, HTTPError) or error.code in (408, 429) or error.code >= 500
                if failures > download.RETRIES or not passing:
                    raise UserError(f"cannot download {self.url}: {error}") from error
            time.sleep(download.PAUSE * 2 ** (failures - 1))


def unpack(archive: Path, folder: Path, *, limit: int, top: str | None = None) -> Path:
    """Unpack a zip or tar file that may come from anybody; ``folder`` appears complete or not at all.

    Args:
        archive: .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz, whatever its name.
        folder: what to make; if it exists, nothing is done.
        limit: most bytes that may be unpacked.
        top: folder inside the archive whose contents are taken; None = all.

    Raises:
        UserError: a member would land outside, is a link or a device, or is twice there; too many bytes; damage.
    """
    if folder.exists():
        return folder
    print(f"unpacking {archive.name}", flush=True)
    with archive.open("rb") as file:
        head = file.read(6)
        if head.startswith(b"PK"):
            return unzip(archive, folder, limit=limit, top=top)
        opened = next((opener for magic, opener in _MAGIC.items() if head.startswith(magic)), None)
        if opened is None:
            file.seek(0)
            return untar(file, archive, folder, limit=limit, top=top)
        with opened(archive) as stream:
            return untar(stream, archive, folder, limit=limit, top=top)


class _Counted:
    """A stream that remembers how it ended, and ends with an error where it goes on for too long."""

    def __init__(self, stream: IO[bytes], name: object, limit: int) -> None:
        self.stream, self.name, self.left, self.limit, self.tail = stream, name, limit, limit, b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes."""
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise UserError(f"{self.name} would unpack to more than the {self.limit >> 20} MiB expected of it")
        self.tail = (self.tail + block)[-1024:]
        return block


def untar(
    stream: IO[bytes], name: object, folder: Path, *, limit: int, top: str | None = None, most: int | None = None
) -> Path:
    """Unpack a tar as it streams by; the counterpart of ``unzip`` for tar.

    Args:
        stream: the tar's bytes, no longer compressed.
        name: what to call it in messages.
        folder: what to make.
        limit: most bytes that the stream may have.
        top: folder inside the archive whose contents are taken; None = all.
        most: stop after this many pictures; None = read it to its end, which must be there.

    Raises:
        UserError: as :func:`unpack`.
    """
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    counted, taken, pictures = _Counted(stream, name, limit), 0, 0
    try:
        with tarfile.open(fileobj=counted, mode="r|") as opened:
            for member in opened:
                path = _harmless(member, name)
                if path is None or (top is not None and not path.is_relative_to(top)):
                    continue
                target = draft / path.relative_to(top or ".")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(opened.extractfile(member), file, _BLOCK)
                taken, pictures = taken + 1, pictures + is_picture(path)
                if pictures == most:
                    break
            else:
                while counted.read(_BLOCK):  # a compressed stream checks itself at its end
                    pass
                if any(counted.tail) or len(counted.tail) < 1024:
                    raise EOFError("it has no end")
        if not taken:
            raise UserError(f"{name} holds no folder {top!r}" if top else f"{name} is empty")
        draft.replace(folder)
    except FileExistsError as error:
        raise UserError(f"{name} is damaged: it holds {Path(error.filename).name!r} twice; fetch another") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{name} is damaged or incomplete ({error}); delete it and fetch it again") from error
    except OSError as error:
        if error.errno is not None:  # a full disk and the like
            raise
        raise UserError(f"{name} is damaged or incomplete ({error}); delete it and fetch it again") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _harmless(member: tarfile.TarInfo, name: object) -> PurePosixPath | None:
    """Where a member belongs; None = it is a folder.

    Raises:
        UserError: it is neither a file nor a folder, or leads out of the folder it is unpacked to.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or any(letter in member.name for letter in "\\:\0"):
        raise UserError(f"{name} is not safe to unpack: {member.name!r} leads out of the folder")
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        raise UserError(f"{name} is not safe to unpack: {member.name!r} is a link, a device or a sparse file")
    return path


def top_folder(archive: Path, candidates: Iterable[str]) -> str | None:
    """The first of some folders that a zip file has; None = none of them."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive} is damaged or incomplete ({error}); delete it and fetch it again") from error
    return next((top for top in candidates if any(name.startswith(f"{top}/") for name in names)), None)


# --------------------------------------------------------------------------------------------------------- pictures


def is_picture(path: Path | PurePosixPath) -> bool:
    """Whether a file counts as a picture by its name."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def files_below(folder: Path) -> list[PurePosixPath]:
    """All files of a folder, relative to it, sorted."""
    found = (Path(root, name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)
    return sorted(PurePosixPath(path) for path in found)


def over_all(function: Callable[[Item], Result], items: list[Item], jobs: int, doing: str) -> Iterator[Result]:
    """``map`` with a progress bar, in ``jobs`` processes; the results come in the order of the items."""
    bar = tqdm(total=len(items), desc=doing, unit="", mininterval=0.5)
    with bar:
        if jobs == 1 or len(items) < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        with ProcessPoolExecutor(min(jobs, len(items))) as pool:
            try:
                for result in pool.map(function, items, chunksize=max(1, min(64, len(items) // (4 * jobs)))):
                    yield result
                    bar.update()
            except BrokenProcessPool as error:
                raise UserError(
                    "a process was killed, perhaps for want of memory; try again with fewer --jobs"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def unreadable(path: Path) -> str | None:
    """Why a picture cannot be read to its last pixel; None = it can."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (64, 64))  # a JPEG is read whole but made small: eight times as fast
            picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error, Image.DecompressionBombError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def place(unpacked: Path, draft: Path, belongs: Callable[[PurePosixPath], str | None], limit: int | None) -> int:
    """Move unpacked files to where they belong below ``draft``; with ``limit``, the first pictures by their new names.

    Args:
        unpacked: folder to take from.
        draft: folder to move to.
        belongs: from a path inside the archive to one below ``draft`` such as images/a.jpg; None = left out.
        limit: most pictures; what has the name of a picture left out (a label) stays away too. None = all.

    Returns:
        How many pictures there are in images/.
    """
    moves = {}
    for path in files_below(unpacked):
        if target := belongs(path):
            moves[PurePosixPath(target)] = path
    pictures = sorted(target for target in moves if target.parts[0] == "images" and is_picture(target))
    stems = {_stem(target) for target in pictures[:limit]}
    for target, path in moves.items():
        if target.parts[0] in ("images", "labels") and _stem(target) not in stems:
            continue
        (draft / target).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / path).replace(draft / target)
    return len(stems)


def _stem(path: PurePosixPath) -> PurePosixPath:
    """What a picture images/a/b.jpg and its label labels/a/b.png have in common: a/b."""
    return PurePosixPath(*path.parts[1:]).with_suffix("")


def drop_unreadable(draft: Path, jobs: int) -> tuple[int, int]:
    """Read every picture in images/ and labels/; a pair of which one is broken goes.

    Returns:
        How many pictures are left in images/, and how many were left out.

    Raises:
        UserError: none is left.
    """
    files = [path for path in files_below(draft) if path.parts[0] in ("images", "labels") and is_picture(path)]
    reasons = list(over_all(unreadable, [draft / path for path in files], jobs, "reading"))
    broken = {_stem(path): (path, why) for path, why in zip(files, reasons, strict=True) if why}
    for path in files:
        if _stem(path) in broken:
            (draft / path).unlink()
    left = sum(path.parts[0] == "images" for path in files) - len(broken)
    if broken:
        path, why = next(iter(broken.values()))
        print(f"{len(broken)} left out, since they cannot be read, first: {path} ({why})")
    if left <= 0:
        raise UserError("none of the pictures can be read; fetch the archive again")
    return left, len(broken)


def make(
    source: Source,
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    belongs: Callable[[PurePosixPath], str | None],
    following: str,
    top: Callable[[Path], str | None] = lambda _: None,
    convert: Callable[[Path], None] = lambda _: None,
) -> None:
    """Make a data set from archives: fetch, check, unpack, place, read every picture, publish.

    Args:
        source: terms and archives.
        arguments: of the command line.
        settings: what tells one result from another; kept in made.json.
        belongs: as in :func:`place`.
        following: the next command.
        top: from an archive to the folder inside it whose contents are taken; None = all.
        convert: a last change to the draft.
    """
    print_terms(source)
    settings = {**settings, "limit": arguments.limit}
    out, downloads = arguments.out, arguments.out / ".downloads"
    if not begin(out, settings):
        return
    unpacked = out / ".unpacked.draft"
    shutil.rmtree(unpacked, ignore_errors=True)  # half moved by a run that was killed
    paths = [obtain(source, a, arguments.archive, arguments.mirror, downloads) for a in source.archives]
    for archive, path in zip(source.archives, paths, strict=True):
        inner = top(path)
        folder = unpacked / archive.name
        if inner:  # its name is kept: it tells one packing from another
            folder /= PurePosixPath(inner).name
        folder.parent.mkdir(parents=True, exist_ok=True)
        unpack(path, folder, limit=archive.most, top=inner)
    settle(arguments, settings, unpacked, belongs, following, convert)
    for path in paths:
        if path.parent == downloads:  # its digest stays on record beside it
            path.unlink()


def settle(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    unpacked: Path,
    belongs: Callable[[PurePosixPath], str | None],
    following: str,
    convert: Callable[[Path], None] = lambda _: None,
) -> None:
    """From unpacked files, in a folder for each archive, to the finished data set; arguments as of :func:`make`."""
    out, draft = arguments.out, arguments.out / ".placed.draft"
    shutil.rmtree(draft, ignore_errors=True)

    if not place(unpacked, draft, lambda path: belongs(PurePosixPath(*path.parts[1:])), arguments.limit):
        raise UserError(f"{', '.join(path.name for path in unpacked.iterdir())} holds none of the pictures expected")
    left, broken = drop_unreadable(draft, arguments.jobs)
    convert(draft)
    for part in sorted(draft.iterdir()):
        if (out / part.name).is_dir():  # half published by a run that was killed
            shutil.rmtree(out / part.name)
        part.replace(out / part.name)
    finish(out, settings, {"pictures": left, "unreadable": broken}, following)


# ----------------------------------------------------------------------------------------------------------- weights


def get_weights(name: str, chosen: argparse.Namespace, load: Callable[[str], object], following: str) -> None:
    """Put published weights into ``--out``, by default the cache where the package looks for them.

    Args:
        name: a key of :data:`lama_minimal.download.PUBLISHED`.
        chosen: arguments of the command line.
        load: builds the network, to see that nothing is missing.
        following: the next command.
    """
    weights = PUBLISHED[name]
    file = PurePosixPath(urlsplit(weights.url).path).name
    print(f"{name}\n  terms: {weights.licence}\n  page:  {weights.page}\n  file:  {weights.url}", flush=True)
    target, stage = chosen.out / (weights.folder or file), chosen.out / f".{name}.draft"
    if chosen.out.resolve() != cache_folder().resolve():
        following = f"LAMA_MINIMAL_CACHE={chosen.out} {following}"
    if target.exists():
        os.environ["LAMA_MINIMAL_CACHE"] = str(chosen.out)
        fetch_weights(name)  # holds them against their digest
        print(f"nothing to do: {target} is complete\nnext: {following}")
        return
    # In a folder of its own until the network has been built: a file that is not the right one never gets its name.
    stage.mkdir(parents=True, exist_ok=True)
    os.environ["LAMA_MINIMAL_CACHE"] = str(stage)
    record = f"{file}.sha256"
    if (chosen.out / record).exists():
        shutil.copyfile(chosen.out / record, stage / record)
    if chosen.mirror:
        PUBLISHED[name] = replace(weights, url=f"{chosen.mirror.rstrip('/')}/{file}")
    if chosen.archive:
        if not chosen.archive[0].is_file():
            raise UserError(f"no such file: {chosen.archive[0]}")
        shutil.copyfile(chosen.archive[0], stage / "given")
        (stage / "given").replace(stage / file)
    try:
        load(name)
    except UserError:
        if chosen.archive or (stage / target.name).exists():  # a whole file, but not the right one
            shutil.rmtree(stage)
        raise
    for path in stage.iterdir():
        path.replace(chosen.out / path.name)
    stage.rmdir()
    print(f"done: {target}\nnext: {following}")
