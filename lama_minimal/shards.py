"""Images inside tar files, read in place: nothing is unpacked, and image n is found by its number.

Any tar that is not compressed serves: shards of the WebDataset convention (``000012.jpg`` with its ``000012.label.png``
beside it), or a publisher's archive of folders. Its headers are read once and kept as an index in the user's cache;
from then on an image costs one read. So a set of shards is as random-access as a folder, sample n of a run stays a
function of (seed, n), and ranks, workers, kills and resumptions need no bookkeeping of their own.

An epoch visits the images in an order that disks and networks like (:func:`shuffled`). Of a file behind http(s) pieces
are fetched with range requests into a bounded folder of the cache; the whole file where the server knows no ranges.
"""

import glob
import hashlib
import io
import itertools
import os
import re
import tarfile
import time
import urllib.request
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError

import numpy as np
from tqdm import tqdm

from lama_minimal import __version__, download
from lama_minimal.config import UserError
from lama_minimal.download import _lock, cache_folder, fetch_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Files that count as images, whatever the case of the letters."""
LABEL = ".label.png"
"""How the name of an image's label ends: one channel, a class number for each pixel."""

CHUNK = 64
"""Neighbours that an epoch reads together: about 4 MB of photographs, nearly as fast as one long read."""
WINDOW = 128
"""Chunks, from all over the set, among whose images an epoch shuffles: 8,192 images."""
OPEN_FILES = 128
"""Most shards that a process holds open: about as many as a window may need."""

_CONNECTIONS = 16  # connections at a time while the headers of remote shards are read


# --------------------------------------------------------------------------------------------------- which tar files


def is_shards(source: str | Path) -> bool:
    """Whether a source of images names tar files rather than a folder."""
    return any(re.search(r"\.(tar|tgz|tar\.\w+)$", part) or _is_remote(part) for part in str(source).split("::"))


def _is_remote(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def expand(source: str) -> list[str]:
    """The tar files of a source, each once: ``{000..999}``, ``{a,b}``, local ``*`` and ``?``, several joined by ``::``.

    >>> expand("http://host/{train,more}-{00..01}.tar")[:3]
    ['http://host/train-00.tar', 'http://host/train-01.tar', 'http://host/more-00.tar']

    Raises:
        UserError: a range that is none, or a local file that is not there.
    """
    places = []
    for pattern in source.split("::"):
        for place in _braces(pattern):
            if _is_remote(place) or Path(place).is_file():
                places.append(place)
                continue
            found = sorted(glob.glob(place))
            if not found:
                raise UserError(f"no such shard: {place}")
            places += found
    return list(dict.fromkeys(places))


def _braces(pattern: str) -> list[str]:
    """All that a pattern with braces stands for, as in a shell."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = int(span[1]), int(span[2])
        if first > last or last - first >= 10**6:
            raise UserError(f"{match[0]} in {pattern} is no range of shards: write {{000000..000999}}")
        middles = [f"{number:0{len(span[1])}}" for number in range(first, last + 1)]
    else:
        middles = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [head + middle + rest for middle, rest in itertools.product(middles, _braces(tail))]


# -------------------------------------------------------------------------------------------------------- their index


class Index(NamedTuple):
    """What is in a tar file: N images."""

    names: np.ndarray
    """(N,) bytes: names of the members."""
    images: np.ndarray
    """(N, 2) int64: where each image's bytes begin, and how many they are."""
    labels: np.ndarray
    """(N, 2) int64: the same of its label; 0, 0 without one."""


def scan(file: BinaryIO, length: int, place: str) -> Index:
    """Read the headers of a tar file.

    Images are members with the suffix of an image. Other members of an image's sample, which have its name up to the
    first dot (``12.jpg``, ``12.seg.png``), are not; of two members with one name the later counts, as in any tar.

    Args:
        file: the tar, to be read from its beginning to its end.
        length: of the tar, bytes.
        place: its name for messages.

    Raises:
        UserError: it is compressed, damaged or cut short, or has no image in it.
    """
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # else a million members would stay in memory
                hidden = member.name.rpartition("/")[2].startswith(".")
                if member.isreg() and not member.issparse() and not hidden:
                    members[member.name] = member.offset_data, member.size
            file.seek(tar.offset)
            if file.read(512).strip(b"\0") or tar.offset + 512 > length:
                raise tarfile.ReadError("has no end")
    except tarfile.TarError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{place} is compressed, cut short or no tar ({reason}): unpack or fetch it again") from error
    pictures = [name for name in members if name.lower().endswith(SUFFIXES) and not name.endswith(LABEL)]
    keys = {_key(name) for name in pictures if _stem(name) == _key(name)}
    names = [name for name in pictures if _stem(name) == _key(name) or _key(name) not in keys]
    if not names:
        raise UserError(f"{place} holds no image: looked for {', '.join(SUFFIXES)}")
    labels = [members.get(_stem(name) + LABEL, (0, 0)) for name in names]
    encoded = np.array([os.fsencode(name) for name in names], np.bytes_)
    return Index(encoded, np.array([members[name] for name in names], np.int64), np.array(labels, np.int64))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _key(name: str) -> str:
    """What the members of one sample have in common: folder, and name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


@dataclass(frozen=True)
class Shard:
    """A tar file at some version of its contents."""

    place: str
    """Path or address."""
    length: int
    """Bytes."""
    version: str
    """By what another version would be known: time of the last change, or what its server says."""
    remote: bool = False
    """Whether pieces of it are fetched when they are needed."""

    @property
    def digest(self) -> str:
        """A name for its files in the cache."""
        return hashlib.sha256(f"{self.place}\n{self.length}\n{self.version}".encode()).hexdigest()[:32]

    def index(self) -> Index:
        """What is in it, from the cache or else from its headers.

        Raises:
            UserError: it is no whole tar, or the cache cannot be written.
        """
        path = cache_folder() / "shards" / f"{self.digest}.npz"
        if (kept := _read_index(path)) is not None:
            return kept
        with _storing(path.parent), _lock(path):
            if (kept := _read_index(path)) is not None:  # another process was faster
                return kept
            # What is smaller than the buffer is read over, what is larger is stepped over.
            file = io.BufferedReader(_Remote(self), 4096) if self.remote else open(self.place, "rb", 1 << 18)
            with file:
                index = scan(file, self.length, self.place)
            draft = path.with_suffix(".draft")
            with draft.open("wb") as written:
                np.savez(written, **index._asdict())
            draft.replace(path)
        return index


def _read_index(path: Path) -> Index | None:
    """An index that was kept; None = there is none, or it is damaged."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
        return Index(*(kept[name] for name in Index._fields))
    return None


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Make a folder of the cache, and turn what the disk refuses into one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        fix = "make room, or set LAMA_MINIMAL_CACHE to another folder"
        raise UserError(f"cannot store in {folder} ({error.strerror or error}): {fix}") from error


# --------------------------------------------------------------------------------------------------------- over http


def _fetch(url: str, start: int, stop: int, known: "Shard | None" = None) -> tuple[bytes, Shard]:
    """Bytes of a remote file, and what its server says of it; no bytes if the server knows no ranges.

    Raises:
        UserError: no such file; it is no longer the ``known`` one; or no connection, after some attempts.
    """
    headers = {"User-Agent": f"lama-minimal/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers | {"Range": f"bytes={start}-{stop - 1}"})
    for attempt in range(download.RETRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=download.TIMEOUT) as response:
                shard = _described(url, response)
                if known is not None and shard != known:
                    raise UserError(f"{url} has changed on its server: start this command again")
                body = response.read() if shard.remote else b""
                if shard.remote and len(body) != stop - start:
                    raise ConnectionError(f"{len(body)} bytes instead of {stop - start}")
                return body, shard
        except (HTTPException, OSError) as error:
            passing = not isinstance(error, HTTPError) or error.code in (408, 429) or error.code >= 500
            if attempt == download.RETRIES or not passing:
                raise UserError(f"cannot read {url}: {' '.join(str(error).split())}") from error
        time.sleep(download.PAUSE * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _described(url: str, response: HTTPResponse) -> Shard:
    """A remote file as an answer's headers describe it."""
    tag = response.headers.get("ETag", "W/")
    version = response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
    length = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status == 206 and length.isdigit():
        return Shard(url, int(length), version, remote=True)
    return Shard(url, response.length or 0, version)


def _piece(shard: Shard, start: int, stop: int) -> bytes:
    """Bytes of a remote shard; raises as :func:`_fetch`."""
    return _fetch(shard.place, start, stop, shard)[0]


class _Remote(io.RawIOBase):
    """A remote shard as a file, to read its headers."""

    def __init__(self, shard: Shard) -> None:
        self.shard, self.position = shard, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.shard.length}
        self.position = base[whence] + offset
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        stop = min(self.position + len(buffer), self.shard.length)
        if stop <= self.position:
            return 0
        content = _piece(self.shard, self.position, stop)
        buffer[: len(content)] = content
        self.position = stop
        return len(content)


def _look(place: str) -> Shard:
    """A tar file as it is now.

    Raises:
        UserError: it cannot be had.
    """
    if _is_remote(place):
        return _fetch(place, 0, 1)[1]
    state = os.stat(place)
    return Shard(os.path.abspath(place), state.st_size, str(state.st_mtime_ns))


def _copy_of(shard: Shard) -> Path:
    """Where the whole of a remote file lies whose server knows no ranges."""
    return cache_folder() / "shards" / f"{shard.digest}.tar"


def _check_room(shards: list[Shard], most: float) -> None:
    """Check that files that have to be fetched whole find room in the cache.

    Raises:
        UserError: they do not.
    """
    missing = [shard for shard in shards if _whole(shard) and not _copy_of(shard).exists()]
    if not missing:
        return
    folder = cache_folder() / "shards"
    needed = sum(shard.length for shard in missing) + sum(path.stat().st_size for path in folder.glob("*.tar"))
    if needed > most:
        raise UserError(
            f"the server of {missing[0].place} knows no ranges, and with whole shards {folder} would grow to "
            f"{needed / 1e9:.1f} GB: allow so much with data.cache, clear it, or fetch the shards by hand"
        )


def _whole(shard: Shard) -> bool:
    """Whether a file has to be fetched whole."""
    return _is_remote(shard.place) and not shard.remote


def _indexed(shard: Shard) -> tuple[Shard, Index]:
    """A shard, fetched if need be, and what is in it."""
    if _whole(shard):
        shard = _look(str(fetch_file(shard.place, _copy_of(shard), progress=False)))
    return shard, shard.index()


# ------------------------------------------------------------------------------------------------------------- images


class Member(NamedTuple):
    """An encoded image of a shard."""

    content: bytes
    source: "Shards"
    number: int

    @property
    def name(self) -> str:
        """Names of its shard and of the member, such as train-000000.tar/000000012.jpg."""
        return f"{self.source.place(self.number).rpartition('/')[2]}/{self.source.name(self.number)}"

    def __str__(self) -> str:
        """For messages."""
        return f"{self.source.name(self.number)} in {self.source.place(self.number)}"


class Shards:
    """The images of a set of tar files, by number: those of the first file in their order there, then the next file's.

    A sequence of :class:`Member`. Reading one fails only if a file or server does, for which ``UserError`` is raised;
    whether its bytes are an image shows when they are decoded. Not for several threads at a time.
    """

    def __init__(self, source: str, cache: float = 20.0) -> None:
        """Find the images; reads the headers of files seen for the first time.

        Args:
            source: as :func:`expand` takes it.
            cache: most disk space for pieces of remote shards, GB (10⁹ bytes).

        Raises:
            UserError: a file that is not there, is no tar or holds no image.
        """
        self.cache, self.most = cache_folder() / "shards", cache * 1e9
        places = expand(source)
        with ThreadPoolExecutor(_CONNECTIONS if any(map(_is_remote, places)) else 1) as pool:
            shards = list(pool.map(_look, places))
            _check_room(shards, self.most)
            opened = pool.map(_indexed, shards)
            found = list(tqdm(opened, "reading headers", len(places), unit="shard", delay=2, leave=False))
        self.shards = [shard for shard, _ in found]
        sizes = [len(index.images) for _, index in found]
        # Few large arrays: objects would be counted, and counting would unshare the memory of workers.
        self.shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self.member = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        self.images = np.concatenate([index.images for _, index in found])
        self.labels = np.concatenate([index.labels for _, index in found])
        self._forget()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.shard)

    def __getitem__(self, n: int) -> Member:
        """Image ``n``, read together with its neighbours, which an epoch wants soon."""
        if not 0 <= n < len(self):
            raise IndexError(n)
        return Member(self._read(n, *map(int, self.images[n])), self, n)

    def label(self, n: int) -> bytes | None:
        """The label of image ``n``: a PNG with a class number for each pixel; None = it has none."""
        start, size = map(int, self.labels[n])
        return self._read(n, start, size) if size else None

    def place(self, n: int) -> str:
        """Path or address of the tar file of image ``n``."""
        return self.shards[self.shard[n]].place

    def name(self, n: int) -> str:
        """Name of image ``n`` in its tar file."""
        return os.fsdecode(_names(self.shards[self.shard[n]])[self.member[n]])

    def take(self, numbers: np.ndarray) -> "Shards":
        """The images of these numbers, in this order, as a set of their own."""
        taken = object.__new__(Shards)
        taken.__dict__ |= self.__dict__
        taken._forget()
        for name in ("shard", "member", "images", "labels"):
            setattr(taken, name, getattr(self, name)[numbers])
        return taken

    def __getstate__(self) -> dict:
        """Without open files, which no other process can use."""
        return self.__dict__ | {"_files": OrderedDict(), "_chunks": {}}

    def __del__(self) -> None:
        """Close the files; Python would, too, but with a warning for each, at a time of its own choice."""
        for file in getattr(self, "_files", {}).values():
            file.close()

    def _forget(self) -> None:
        """Have no file open, and no chunk in use."""
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._chunks: dict[tuple[int, int], tuple[int, int]] = {}

    def _read(self, n: int, start: int, size: int) -> bytes:
        """Bytes of the shard of image ``n``."""
        shard, key = self.shards[self.shard[n]], (n // CHUNK, int(self.shard[n]))
        if begins := key not in self._chunks:
            if len(self._chunks) > 2 * WINDOW:
                self._chunks.clear()
            self._chunks[key] = self._surroundings(n)
        first, last = self._chunks[key]
        if not shard.remote:
            return self._read_local(shard, start, size, (first, last) if begins else None)
        if not first <= start <= start + size <= last:
            return _piece(shard, start, start + size)
        path = self.cache / f"{shard.digest}-{first}-{last}.piece"
        with suppress(FileNotFoundError), path.open("rb") as file:  # another process may drop it at any time
            file.seek(start - first)
            if len(content := file.read(size)) == size:
                return content
        content = _piece(shard, first, last)
        self._keep(path, content)
        return content[start - first : start - first + size]

    def _surroundings(self, n: int) -> tuple[int, int]:
        """First byte and end of what is read together with image ``n``; nothing where its neighbours lie far apart."""
        chunk = slice(n // CHUNK * CHUNK, (n // CHUNK + 1) * CHUNK)
        spans = self.images[chunk][self.shard[chunk] == self.shard[n]]
        first, last = int(spans[:, 0].min()), int(spans.sum(axis=1).max())
        dense = last - first <= 2 * (spans[:, 1].sum() + 2048 * len(spans))  # a member's header and padding
        return (first, last) if dense else (0, 0)

    def _read_local(self, shard: Shard, start: int, size: int, soon: tuple[int, int] | None) -> bytes:
        """Bytes of a local shard; has the system begin to read from first byte to end of what is wanted ``soon``."""
        try:
            file = self._files.pop(shard.place, None) or open(shard.place, "rb", buffering=0)
            self._files[shard.place] = file
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            if soon and soon[1] and hasattr(os, "posix_fadvise"):  # a length of 0 would mean all of the file
                os.posix_fadvise(file.fileno(), soon[0], soon[1] - soon[0], os.POSIX_FADV_WILLNEED)
            content = _read_at(file, start, size)
        except OSError as error:
            raise UserError(f"cannot read {shard.place}: {error.strerror or error}") from error
        if len(content) != size:
            raise UserError(f"{shard.place} has become shorter since it was opened: start this command again")
        return content

    def _keep(self, path: Path, content: bytes) -> None:
        """Store a piece; the oldest ones go when there are too many."""
        with _storing(self.cache):
            draft = path.with_suffix(f".{uuid.uuid4().hex}")
            draft.write_bytes(content)
            draft.replace(path)
            pieces = []
            for entry in os.scandir(self.cache):
                with suppress(FileNotFoundError):
                    if entry.name.endswith(".piece"):
                        pieces.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
            excess = sum(size for _, size, _ in pieces) - self.most
            for _, size, oldest in sorted(pieces):
                if excess <= 0:
                    break
                with suppress(FileNotFoundError):
                    os.unlink(oldest)
                excess -= size

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """An order in which an epoch takes the images, see :func:`shuffled`."""
        return shuffled(len(self), rng)


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Bytes of a file; its own position, which forked processes share, stays as it is, where there are such."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, start)
    file.seek(start)
    return file.read(size)


@lru_cache(maxsize=4)
def _names(shard: Shard) -> np.ndarray:
    """Names of a shard's images, which are seldom asked for and not kept in memory."""
    return shard.index().names


def shuffled(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of 0 … count - 1 in which neighbours are visited at nearly the same time.

    The numbers are cut into chunks of :data:`CHUNK`; the chunks are shuffled, and then the numbers of each
    :data:`WINDOW` chunks that follow one another. So a disk or server reads chunk after chunk, no matter how many
    processes share them, and nevertheless a batch has images from over a hundred places of the set; up to 8,192
    images, the order is wholly random.

    Returns:
        (count,) int64, each number once.
    """
    chunks = rng.permutation(-(-count // CHUNK))
    order = (chunks[:, None] * CHUNK + np.arange(CHUNK)).ravel()
    order = order[order < count]
    for start in range(0, count, CHUNK * WINDOW):
        rng.shuffle(order[start : start + CHUNK * WINDOW])
    return order
