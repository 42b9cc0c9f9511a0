"""Files from the network, whole or not at all: resumed, checked, and kept in the user's cache.

A download grows as ``<name>.part`` and takes its own name only when its length and digest are right. Where its
publisher gives no digest, the SHA-256 seen first is written to ``<name>.sha256``, and another file is refused later.
"""

import hashlib
import os
import shutil
import socket
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from lama_minimal import __version__
from lama_minimal.config import UserError, suggest

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file at the same time are not kept apart there
    fcntl = None

TIMEOUT = 30.0
"""Seconds without a byte before a connection counts as broken."""
RETRIES = 4
"""Attempts after the first that bring nothing new before a download is given up."""
PAUSE = 1.0
"""Seconds before the first retry, doubled before each next one."""
_BLOCK = 1 << 17


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody published."""

    url: str
    """Where the file is."""
    page: str
    """A page that a person can visit to fetch it by hand."""
    licence: str
    """Its terms, in a line."""
    parameters: int
    """Trainable numbers of the network it holds: the structure by which a file is recognised."""
    sha256: str | None = None
    """Published SHA-256, or the beginning of it that is published; None = none is."""
    md5: str | None = None
    """Published MD5; None = none is."""
    folder: str | None = None
    """Folder inside the zip archive that is the checkpoint; None = the file is used as it is."""


PUBLISHED: dict[str, PublishedWeights] = {
    "big-lama": PublishedWeights(
        url="https://huggingface.co/smartywu/big-lama/resolve/main/big-lama.zip",
        page="https://huggingface.co/smartywu/big-lama",
        licence="Apache-2.0 (the authors of LaMa)",
        parameters=50_975_875,
        folder="big-lama",
    ),
    "big-lama-torchscript": PublishedWeights(
        url="https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt",
        page="https://github.com/Sanster/models/releases/tag/add_big_lama",
        licence="Apache-2.0 (the authors of LaMa; exported by the authors of IOPaint)",
        parameters=50_975_875,
        md5="e3aa4aaa15225a33ec84f9f4bc47e500",
    ),
    "ade20k": PublishedWeights(
        url="http://sceneparsing.csail.mit.edu/model/pytorch/ade20k-resnet50dilated-ppm_deepsup/encoder_epoch_20.pth",
        page="https://github.com/CSAILVision/semantic-segmentation-pytorch",
        licence="BSD-3-Clause (MIT CSAIL); trained on ADE20K, whose images are for non-commercial research",
        parameters=23_631_808,
    ),
    "imagenet-resnet50": PublishedWeights(
        url="http://sceneparsing.csail.mit.edu/model/pretrained_resnet/resnet50-imagenet.pth",
        page="https://github.com/CSAILVision/semantic-segmentation-pytorch",
        licence="BSD-3-Clause (MIT CSAIL); trained on ImageNet, whose images are for non-commercial research",
        parameters=23_631_808,
    ),
    "vgg19": PublishedWeights(
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        page="https://pytorch.org/vision/stable/models/generated/torchvision.models.vgg19.html",
        licence="BSD-3-Clause (torchvision); trained on ImageNet, whose images are for non-commercial research",
        parameters=12_944_960,
        sha256="dcbb9e9d",  # torch.hub's convention: a file's name ends with the beginning of its SHA-256
    ),
}


class _TransientError(Exception):
    """A failure that may pass."""


class _UnreachableError(_TransientError):
    """Nobody answers: without a network there is no point in trying again at once."""


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turn a full disk, missing rights and the like into one line for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot store {path}: {reason}; make room or choose another folder") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time fetch ``path``: the ranks of a distributed run all want the same weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    lock = path.with_name(path.name + ".lock")
    while True:
        handle = lock.open("a")
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                break
        except FileNotFoundError:
            pass
        handle.close()  # who held the lock before has removed the file meanwhile: lock its successor
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        handle.close()


def cache_folder() -> Path:
    """Where downloads go: ``$LAMA_MINIMAL_CACHE``, else ``lama-minimal`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("LAMA_MINIMAL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lama-minimal"


def fetch_file(
    url: str,
    destination: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    progress: bool = True,
) -> Path:
    """Download a file unless it is there already; either way it is checked before it is handed back.

    An interrupted download continues where it stopped, in this call or a later one, if the server can tell that its
    file is still the same. Connections that break or time out and answers 408, 429 and 5xx are tried again.

    Args:
        url: an http or https address.
        destination: where the file shall lie; missing folders are made.
        size: published length in bytes; None = unknown.
        sha256: published SHA-256 in hexadecimal digits, or its published beginning; None = unknown.
        md5: published MD5; None = unknown. Without any full digest the one seen first is recorded and held.
        progress: show a bar on standard error.

    Returns:
        ``destination``.

    Raises:
        UserError: no connection, no such file, a web page in its place, a wrong length or digest, a full disk.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"cannot download {url}: give an http or https address")
    destination = Path(destination)
    checks = dict(size=size, sha256=sha256, md5=md5)
    with _storing(destination):
        if not destination.exists():
            with _lock(destination):
                if not destination.exists():  # another process may have been faster
                    _download_checked(url, destination, checks, progress)
                    return destination
        verify_file(destination, **checks)
    return destination


def _download_checked(url: str, destination: Path, checks: dict[str, Any], progress: bool) -> None:
    """Download next to ``destination``, and give the file its name only when nothing is wrong with it."""
    part = _with_suffix(destination, ".part")
    _download(url, part, checks["size"], progress)
    if fault := _fault(part, **checks, record=_with_suffix(destination, ".sha256")):
        _forget(part)
        raise UserError(f"cannot use {url}: it {fault}")
    part.replace(destination)
    _forget(part)


def verify_file(path: Path, *, size: int | None = None, sha256: str | None = None, md5: str | None = None) -> None:
    """Hold a file against its published length and digests, or against the digest seen first (``<path>.sha256``).

    Args:
        path: the file.
        size: published length in bytes; None = unknown.
        sha256: published SHA-256 or its beginning; None = unknown.
        md5: published MD5; None = unknown.

    Raises:
        UserError: the file is another one.
        OSError: it cannot be read, or the record not be written.
    """
    if fault := _fault(path, size, sha256, md5, _with_suffix(path, ".sha256")):
        raise UserError(f"{path} {fault}; delete it and fetch it again")


def _fault(path: Path, size: int | None, sha256: str | None, md5: str | None, record: Path) -> str | None:
    """What is wrong with a file; None = nothing, and ``record`` holds its digest from now on if it has to."""
    length = path.stat().st_size
    if size is not None and length != size:
        return f"has {length} bytes instead of {size}"
    for algorithm, published in (("md5", md5), ("sha256", sha256)):
        if published and not (found := _digest(path, algorithm)).startswith(published.lower()):
            return f"has the {algorithm.upper()} {found} instead of the published {published}"
    if md5 or len(sha256 or "") == 64:
        return None
    found = _digest(path, "sha256")
    if record.exists():
        if record.read_text().split()[:1] != [found]:
            return f"is not the file seen first (if you trust this one, delete {record})"
    elif os.access(record.parent, os.W_OK):  # a cache that others keep for us may be read-only
        _write_text(record, f"{found}  {record.name.removesuffix('.sha256')}\n")  # the format of the sha256sum program
    return None


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        # Here a digest recognises files and protects no secret: some systems forbid MD5 unless told so.
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _write_text(path: Path, text: str) -> None:
    """Write a small file in one step: after an interruption it is there whole or not at all."""
    draft = _with_suffix(path, ".new")
    draft.write_text(text)
    draft.replace(path)


def _forget(part: Path) -> None:
    """Remove a partial download and the note about where it comes from."""
    part.unlink(missing_ok=True)
    _with_suffix(part, ".source").unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(url: str, part: Path, size: int | None, progress: bool) -> None:
    """Fill ``part`` completely, over as many connections as it takes while each brings something new."""
    begun_with = longest = _length(part)
    failures = 0
    while True:
        try:
            return _transfer(url, part, size, progress)
        except _TransientError as error:
            failures = 1 if _length(part) > longest else failures + 1
            longest = max(longest, _length(part))
            if failures > RETRIES or (isinstance(error, _UnreachableError) and longest == begun_with):
                raise UserError(f"cannot download {url}: {error}") from error
        time.sleep(PAUSE * 2 ** (failures - 1))


def _transfer(url: str, part: Path, size: int | None, progress: bool) -> None:
    """One connection: append to ``part``, or fill it anew where the server's file is not surely the same as before."""
    note = _with_suffix(part, ".source")  # the address, and by what the server tells versions of its file apart
    headers = {"User-Agent": f"lama-minimal/{__version__}", "Accept-Encoding": "identity"}
    start = 0
    known = note.read_text().splitlines() if note.exists() else []
    if part.exists() and len(known) == 2 and known[0] == url:
        start = _length(part)
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known[1]}
    with _open(urllib.request.Request(url, headers=headers)) as response:
        content_range = response.headers.get("Content-Range", "")
        if response.status == 416:  # nothing lies beyond what we have
            if start and content_range == f"bytes */{start}" and size in (None, start):
                return
            _forget(part)
            raise _TransientError("the partial file does not fit")
        if response.status == 206 and not content_range.startswith(f"bytes {start}-"):
            _forget(part)
            raise _TransientError(f"asked for bytes from {start} on, got {content_range!r}")
        if response.status != 206:
            start = 0
        total = _expected_length(url, response, start, size, part)
        if start == 0:
            note.unlink(missing_ok=True)
            part.write_bytes(b"")  # first empty, then noted: a note never stands beside bytes of another version
            if validator := _validator(response):
                _write_text(note, f"{url}\n{validator}\n")
        _copy(response, part, start, total, progress)


def _open(request: urllib.request.Request) -> HTTPResponse | urllib.error.HTTPError:
    """The server's answer, with status 200, 206 or 416."""
    url = request.full_url
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        reason = f"the server answers {error.code} {error.reason}"
        if error.code in (408, 429) or error.code >= 500:
            raise _TransientError(reason) from error
        raise UserError(f"cannot download {url}: {reason}") from error
    except InvalidURL as error:
        raise UserError(f"cannot download {url}: {error}") from error
    except (HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError | socket.gaierror) or not isinstance(
            reason, TimeoutError | ConnectionError | HTTPException
        ):
            raise _UnreachableError(f"no connection ({reason})") from error
        raise _TransientError(f"the connection broke ({reason!r})") from error


def _validator(response: HTTPResponse) -> str | None:
    """What identifies this version of the file (RFC 9110, If-Range); None = nothing does, so it cannot be resumed."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _expected_length(url: str, response: HTTPResponse, start: int, size: int | None, part: Path) -> int | None:
    """Bytes of the whole file; None where the transfer's own framing (chunks) tells its end.

    Raises:
        UserError: it is not the file wanted, its end could not be told, or the disk has no room.
    """
    if response.headers.get_content_type() == "text/html" and Path(part.stem).suffix not in (".html", ".htm"):
        raise UserError(f"cannot download {url}: the server answers with a web page; open it in a browser to see why")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(f"cannot download {url}: the server insists on compressing it; fetch it with a browser")
    total = size if response.length is None else start + response.length
    if size is not None and total != size:
        raise UserError(f"cannot download {url}: it has {total} bytes instead of {size}")
    if total is None and not response.chunked:
        raise UserError(f"cannot download {url}: the server does not tell its length, so a broken copy would go unseen")
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise UserError(f"{part.parent} has {free >> 20} MiB free, {url} needs {(total - start >> 20) + 1}; make room")
    return total


def _copy(response: HTTPResponse, part: Path, start: int, total: int | None, progress: bool) -> None:
    """Append the body to ``part``."""
    done = start
    bar = tqdm(
        total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=part.stem, disable=not progress
    )
    with bar, part.open("ab") as file:
        while True:
            try:
                block = response.read(_BLOCK)
            except (HTTPException, OSError) as error:
                raise _TransientError(f"the connection broke after {done} bytes ({error!r})") from error
            if not block:
                break
            file.write(block)
            done += len(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())  # else a power cut could leave the final name on a file with holes
    if total is not None and done != total:
        raise _TransientError(f"the connection broke after {done} of {total} bytes")


def unzip(archive: Path, folder: Path, *, limit: int, top: str | None = None) -> Path:
    """Unpack an archive that may come from anybody; ``folder`` appears complete or not at all.

    Args:
        archive: a zip file.
        folder: what to make; if it exists, nothing is done.
        limit: most bytes that may be unpacked.
        top: folder inside the archive whose contents are taken; None = all.

    Returns:
        ``folder``.

    Raises:
        UserError: a member would land outside, is a link, is encrypted or twice there; too many bytes; a broken
            archive; no such ``top``; a full disk.
    """
    if folder.exists():
        return folder
    draft = _with_suffix(folder, ".part")
    try:
        with _storing(folder), zipfile.ZipFile(archive) as opened:
            shutil.rmtree(draft, ignore_errors=True)
            for path, member in _members(archive, opened, limit, top).items():
                target = draft / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)  # checks length and CRC of the member as it reads
            draft.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{archive} is damaged or incomplete ({error}); delete it and fetch it again") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _members(
    archive: Path, opened: zipfile.ZipFile, limit: int, top: str | None
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of an archive by where they belong, all found harmless."""
    files = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or any(letter in member.filename for letter in "\\:\0"):
            raise UserError(f"{archive} is not safe to unpack: {member.filename!r} leads out of the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{archive} is not safe to unpack: {member.filename!r} is a link")
        if member.flag_bits & 1:
            raise UserError(f"{archive} is encrypted; fetch one that is not")
        if not member.is_dir() and (top is None or path.is_relative_to(top)):
            path = path.relative_to(top or ".")
            if path in files:
                raise UserError(f"{archive} is damaged: it holds {member.filename!r} twice; fetch another")
            files[path] = member
    total = sum(member.file_size for member in files.values())
    if total > limit:
        raise UserError(f"{archive} would unpack to {total >> 20} MiB, more than the {limit >> 20} expected of it")
    if not files:
        raise UserError(f"{archive} holds no folder {top!r}" if top else f"{archive} is empty")
    if total > (free := shutil.disk_usage(archive.parent).free):
        raise UserError(f"{archive.parent} has {free >> 20} MiB free, unpacking needs {(total >> 20) + 1}; make room")
    return files


def fetch_weights(name: str) -> Path:
    """Published weights from the cache, or else from the network.

    A file, an archive or an unpacked folder that the user has put into the cache by hand is used as well.

    Args:
        name: a key of :data:`PUBLISHED`.

    Returns:
        A file, or a folder with ``config.yaml`` and ``models/best.ckpt``.

    Raises:
        UserError: an unknown name; or why it cannot be had, with what to fetch by hand and where to put it.
    """
    if name not in PUBLISHED:
        raise UserError(f"no published weights are called {name!r}; {suggest(name, PUBLISHED)}")
    weights = PUBLISHED[name]
    file = cache_folder() / PurePosixPath(urlsplit(weights.url).path).name
    try:
        if weights.folder is None:
            return fetch_file(weights.url, file, sha256=weights.sha256, md5=weights.md5)
        return _fetch_folder(weights, file)
    except UserError as error:
        terms = f"see {weights.page}; licence: {weights.licence}"
        by_hand = f"by hand: fetch {weights.url} ({terms}) and put it at {file}"
        raise UserError(f"{name}: {error}; {by_hand}") from error


def _fetch_folder(weights: PublishedWeights, archive: Path) -> Path:
    """The unpacked archive; the archive itself goes, the digest of the checkpoint is held."""
    folder = archive.with_name(weights.folder)
    checkpoint = folder / "models" / "best.ckpt"
    if not folder.exists():
        with _storing(folder), _lock(folder):
            if not folder.exists():  # another process may have been faster
                fetch_file(weights.url, archive, sha256=weights.sha256, md5=weights.md5)
                try:
                    unzip(archive, folder, limit=4 << 30, top=weights.folder)
                except UserError:
                    _with_suffix(archive, ".sha256").unlink(missing_ok=True)  # not a digest to hold others against
                    raise
                archive.unlink()
    with _storing(checkpoint):
        if not checkpoint.is_file():
            raise UserError(f"{folder} lacks models/best.ckpt; delete this folder")
        verify_file(checkpoint)
    return folder
