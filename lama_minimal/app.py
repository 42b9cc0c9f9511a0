"""The web page: paint over what should disappear, see it filled, download the picture (extra ``app``).

Built on Gradio, whose pages also answer programs: ``/inpaint`` takes a picture and a mask and returns the filled
picture (:data:`API_EXAMPLE`). What is done here beyond the page itself is what keeps it safe to leave running:

* Gradio never decodes what was uploaded. The header is looked at first, :func:`check_header`, and only then is the
  picture read; the painted layer is scaled to the picture's size, so that known pixels come back as they were sent.
* Everything lies in one temporary folder, :class:`Workspace`: emptied when a visitor leaves, swept by age, bounded in
  size, and removed at the end.
* :class:`Guard` stands before Gradio: it bounds requests in bytes, and closes the ways by which a request could make
  the server fetch an address. The page itself may load nothing from elsewhere (:data:`POLICY`).
* One model is in memory at a time, one picture is filled at a time, and the queue is bounded.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path, PurePosixPath
from typing import Any, get_args
from unittest.mock import patch

import cv2
import gradio as gr
import gradio.routes
import numpy as np
import skimage.data
from gradio_client.utils import is_http_url_like
from PIL import Image
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lama_minimal.config import UserError
from lama_minimal.data import SUFFIXES
from lama_minimal.inference import (
    LONG_SIDE,
    Inpainter,
    Precision,
    Progress,
    Strategy,
    colour_profile,
    crops_around,
    inpaint_folder,
    read_mask,
    read_picture,
    save_image,
)
from lama_minimal.viz import MASK_COLOUR, MASK_OPACITY, PALETTE, enlarge, overlay_mask

MOST_BYTES = 100 * 2**20
"""Bytes of a request, and thus of an upload."""
MOST_PIXELS = 50_000_000
"""Pixels of a picture: what the largest cameras of telephones make."""
MOST_AT_ONCE = 4_000_000
"""Pixels that reach the network at once; where a strategy asks for more, the picture is shrunk instead."""
MOST_PICTURES = 200
"""Pictures and masks of a batch."""
MOST_BATCH_PIXELS = 500_000_000
"""Pixels of all pictures of a batch."""
MOST_STORED = 4 * 2**30
"""Bytes in the workspace; above it uploads are refused until some are swept."""
MOST_WAITING = 20
"""Requests in the queue; above it they are refused."""
KEEP_SECONDS = 3600
"""Age at which files are removed, counted from their last use."""
PREVIEW_SIDE = 1280
"""Longer side of what the browser paints on, pixels: larger pictures are shown smaller and filled at full size."""

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Formats that are decoded, in Pillow's names. Others are refused: some of them start other programs."""
PICTURE_SUFFIXES = [*SUFFIXES, ".tif", ".tiff", ".bmp", ".gif"]

NOTHING_PAINTED = "the mask is empty: paint over what should disappear first"
BUSY = "the server holds too many pictures just now: try again in some minutes"
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""Content security policy: the browser refuses to load anything from another host, whatever the page says."""

API_EXAMPLE = """\
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # with a password: auth=("name", "password")
filled = client.predict(
    image=handle_file("photo.jpg"),
    mask=handle_file("mask.png"),  # of the photo's size, not black where something shall be filled
    strategy="auto",  # whole, crop, resize
    refine=False,
    api_name="/inpaint",
)
print(filled)  # path of a PNG of the photo's size
"""
"""How a program uses the page; a test runs it."""


# ---------------------------------------------------------------------------------------------------------- workspace


@dataclass(frozen=True)
class Workspace:
    """The one folder for everything that visitors send and get, a subfolder for each visitor."""

    root: Path

    @property
    def page(self) -> Path:
        """Files of the page itself, which stay."""
        return self._made("page")

    def visit(self, session: str | None) -> Path:
        """The folder of a visitor; ``session`` comes from the browser, so it only counts through its digest."""
        return self._made("visits", hashlib.sha256((session or "").encode()).hexdigest())

    def _made(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def forget(self, session: str | None) -> None:
        """Remove what a visitor left."""
        shutil.rmtree(self.visit(session), ignore_errors=True)

    def files(self) -> list[Path]:
        """All files but those of the page."""
        found = (Path(folder, name) for folder, _, names in os.walk(self.root) for name in names)
        return [path for path in found if not path.is_relative_to(self.page)]

    def stored(self) -> int:
        """Bytes in :meth:`files`."""
        total = 0
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                total += path.stat().st_size
        return total

    def sweep(self, seconds: float) -> None:
        """Remove files older than this, and folders that are empty; leftovers of broken uploads after a minute."""
        now = time.time()
        for path in self.files():
            age = min(seconds, 60) if path.parent == self.root else seconds
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > age:
                    path.unlink()
        for folder, _, _ in os.walk(self.root, topdown=False):
            place = Path(folder)
            if place not in (self.root, self.page):
                with contextlib.suppress(OSError):  # not empty, or just made
                    if now - place.stat().st_mtime > min(seconds, 60):
                        place.rmdir()


@contextmanager
def open_workspace(keep_seconds: float = KEEP_SECONDS) -> Iterator[Workspace]:
    """A workspace that is swept while it is open, and removed at the end; temporary files of libraries go there too."""
    with tempfile.TemporaryDirectory(prefix="lama-minimal-app-", ignore_cleanup_errors=True) as folder:
        workspace = Workspace(Path(folder).resolve())
        root, end = str(workspace.root), threading.Event()

        def sweep() -> None:
            while not end.wait(min(60, keep_seconds / 2)):
                workspace.sweep(keep_seconds)

        thread = threading.Thread(target=sweep, daemon=True, name="sweep")
        with (
            patch.dict(os.environ, GRADIO_TEMP_DIR=root, GRADIO_EXAMPLES_CACHE=f"{root}/examples"),
            patch.object(gradio.routes, "DEFAULT_TEMP_DIR", root),  # read once, when it was imported
            patch.object(tempfile, "tempdir", root),
        ):
            thread.start()
            try:
                yield workspace
            finally:
                end.set()
                thread.join()


# ------------------------------------------------------------------------------------------------------------- guard


def _names_address(value: object) -> bool:
    """Whether a request names a file by an address in the net, which Gradio would fetch."""
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and is_http_url_like(path)) or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


class _Refused(Exception):  # noqa: N818 - ends a request, is no error of the program
    """A request is not taken, for a reason found while its body was read."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.answer = PlainTextResponse(reason, status)


class Guard:
    """What stands between the net and Gradio (an ASGI middleware)."""

    CLOSED = re.compile(
        r"/(gradio_api/)?(proxy=|file=[^/]*:|deep_link|process_recording|vibe|undo-vibe|stream/|run-history|runs|"
        r"component_server|monitoring|manifest\.json|pwa_icon|profiling|custom_component)"
    )
    """Ways that this page does not need, some of which fetch addresses."""
    MOST_JSON = 2**20
    """Bytes of a request that is no upload."""
    HEADERS = (
        (b"content-security-policy", POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    )

    def __init__(self, app: ASGIApp, workspace: Workspace, most_bytes: int = MOST_BYTES) -> None:
        self.app, self.workspace, self.most_bytes = app, workspace, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is not allowed; pass on all others."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, message = True, message | dict(headers=[*message["headers"], *self.HEADERS])
            await send(message)

        try:
            await self.app(scope, await self._checked(scope, receive), answer)
        except _Refused as refused:
            if not started:
                await refused.answer(scope, receive, send)
        except ClientDisconnect:  # in the middle of an upload; nobody waits for an answer
            pass

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What hands out the body of a request that may pass so far.

        Raises:
            _Refused: it may not; what it returns raises this, too.
        """
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.CLOSED.match(scope["path"]):
            raise _Refused(404, "not part of this page")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            raise self._too_large(self.most_bytes)
        if scope["path"].rstrip("/").endswith("/upload"):
            if await asyncio.to_thread(self.workspace.stored) > MOST_STORED:
                raise _Refused(507, BUSY)
        if headers.get(b"content-type", b"").startswith(b"multipart/"):
            return self._bounded(receive, self.most_bytes)
        receive = self._bounded(receive, self.MOST_JSON)
        return await self._without_addresses(receive) if scope["method"] == "POST" else receive

    @staticmethod
    def _too_large(most: int) -> _Refused:
        return _Refused(413, f"larger than the {most / 2**20:g} MB that are allowed")

    def _bounded(self, receive: Receive, most: int) -> Receive:
        """``receive``, but no more bytes than these, whatever the request's header said."""
        total = 0

        async def bounded() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > most:
                raise self._too_large(most)
            return message

        return bounded

    @staticmethod
    async def _without_addresses(receive: Receive) -> Receive:
        """Read a whole body, check it, and hand it out again."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            named = _names_address(json.loads(body or b"null"))
        except RecursionError:
            named = True
        except ValueError:  # a form, or damaged: Gradio says so
            named = False
        if named:
            raise _Refused(400, "upload the file instead of naming its address")
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        return replay


# ---------------------------------------------------------------------------------------------------------- pictures


def check_header(path: Path) -> None:
    """Look at a picture's header, before anything is decoded.

    Raises:
        UserError: no picture of a kind that is decoded here, or too large a one.
    """
    try:
        with Image.open(path, formats=KINDS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:  # far above what is allowed here
        width = height = MOST_PIXELS
    except (OSError, ValueError, SyntaxError):
        raise UserError(f"{path} is not a picture that can be read: use jpg, png or webp") from None
    if width * height > MOST_PIXELS:
        raise UserError(f"{path} has more than {MOST_PIXELS // 10**6} megapixels: make it smaller first")


def preview_size(height: int, width: int) -> tuple[int, int]:
    """Width and height at which a browser shows a picture and paints on it, pixels."""
    scale = min(1.0, PREVIEW_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def preview(pixels: np.ndarray, path: Path) -> str:
    """Write a picture, (H, W, 3) or (H, W, 4) uint8, at its :func:`preview_size`, on white; the path written to."""
    picture = Image.fromarray(pixels)
    picture = picture.resize(preview_size(*pixels.shape[:2]), Image.Resampling.LANCZOS, reducing_gap=3)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    save_image(np.asarray(picture), path)
    return str(path)


def painted_mask(layers: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """What was painted in the browser, at the picture's size.

    Args:
        layers: PNG files with transparency, of the preview's size; painted is what is not transparent.
        size: (H, W) of the picture.

    Returns:
        (H, W) bool, True = hole.

    Raises:
        UserError: no layers that the page painted.
    """
    mask = np.zeros(size, bool)
    for layer in layers:
        try:
            with Image.open(layer, formats=("PNG",)) as picture:
                if max(picture.size) > 2 * PREVIEW_SIDE:
                    raise UserError("the painting is larger than the page makes any: paint again")
                alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        except (OSError, ValueError, SyntaxError):
            raise UserError("the painting did not arrive whole: press Fill again") from None
        # Half of the brush's opacity is where its soft edge lies.
        mask |= cv2.resize(alpha, size[::-1], interpolation=cv2.INTER_LINEAR) > 255 * MASK_OPACITY / 2
    return mask


def affordable(strategy: Strategy, hole: np.ndarray) -> Strategy:
    """The strategy, or ``resize`` where it would bring more pixels to the network at once than :data:`MOST_AT_ONCE`."""
    if strategy == "resize" or hole.size <= MOST_AT_ONCE:
        return strategy
    if strategy == "whole":
        return "resize"
    largest = max((crop.hole.size for crop in crops_around(hole)), default=0)
    return strategy if largest <= MOST_AT_ONCE else "resize"


def fill_picture(
    inpainter: Inpainter,
    image: Path,
    mask: Path | Sequence[Path],
    *,
    strategy: Strategy = "auto",
    refine: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """As :meth:`Inpainter.__call__ <lama_minimal.inference.Inpainter.__call__>`, for what strangers send.

    Args:
        inpainter: what fills the hole.
        image: the picture's file.
        mask: the mask's file, or what was painted, see :func:`painted_mask`.
        strategy: as there, but for :func:`affordable`.
        refine: as there.
        progress: as there.

    Raises:
        UserError: as there, and: too many pixels, or nothing to fill.
    """
    check_header(image)
    rgb, alpha = read_picture(image)
    if isinstance(mask, Path):
        check_header(mask)
        hole = read_mask(mask, rgb.shape[:2])
    else:
        hole = painted_mask(mask, rgb.shape[:2])
    if not hole.any():
        raise UserError(NOTHING_PAINTED)
    filled = inpainter.fill(rgb, hole, strategy=affordable(strategy, hole), refine=refine, progress=progress)
    return filled if alpha is None else np.dstack([filled, alpha])


@dataclass(frozen=True)
class Example:
    """A photograph inside scikit-image's wheel, and lines to paint on it."""

    load: Callable[[], np.ndarray]
    lines: Sequence[Sequence[tuple[int, int]]]
    """Points (x, y), pixels."""
    width: int
    """Of the lines, pixels."""

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """The photograph, (H, W, 3) uint8, and its mask, (H, W) bool."""
        image = self.load()
        image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        mask = np.zeros(image.shape[:2], np.uint8)
        for line in self.lines:
            cv2.polylines(mask, [np.array(line)], isClosed=False, color=1, thickness=self.width)
        return image, mask > 0


EXAMPLES: dict[str, Example] = {
    "rocket": Example(skimage.data.rocket, [[(323, 140), (323, 385)]], 44),
    "spoon": Example(skimage.data.coffee, [[(415, 82), (388, 195), (364, 275), (366, 288)]], 78),
    "badge": Example(skimage.data.astronaut, [[(172, 366), (172, 392)]], 78),
    "bricks": Example(skimage.data.brick, [[(150, 180), (250, 300), (370, 330)]], 60),
}


# ------------------------------------------------------------------------------------------------------------- models


class Models:
    """The models on offer. One is in memory at a time, and one picture is filled at a time."""

    def __init__(self, models: Sequence[str], device: str | None = None, precision: Precision = "auto") -> None:
        """Load the first one.

        Args:
            models: runs, checkpoints, or names of published weights; visitors see the last part of a path.
            device: where to compute; None = a GPU if there is one.
            precision: arithmetic of the networks.

        Raises:
            UserError: no models, two of the same name, or the first one cannot be loaded.
        """
        self._places = {Path(model).name: model for model in models}
        if not models or len(self._places) < len(models):
            raise UserError("give each model a name of its own: of two runs with the same name, rename one")
        self.names = list(self._places)
        self._load = partial(Inpainter.load, device=device, precision=precision)
        self._lock = threading.Lock()
        self._name, self._inpainter = self.names[0], self._load(models[0])

    @contextmanager
    def use(self, name: str | None = None) -> Iterator[Inpainter]:
        """A model, to oneself; None = the first one.

        Raises:
            UserError: there is no such model.
        """
        name = name or self.names[0]
        if name not in self._places:
            raise UserError(f"no model {name!r} here; there are {', '.join(self.names)}")
        with self._lock:
            if name != self._name:
                self._name = self._inpainter = None  # gone before the next one comes
                self._inpainter = self._load(self._places[name])
                self._name = name
            yield self._inpainter


# -------------------------------------------------------------------------------------------------------------- batch


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the pictures of a zip, whatever its names say, into ``folder`` and nowhere else.

    Raises:
        UserError: damaged, too many files, or too large once unpacked.
    """
    too_large = UserError(f"{archive} is larger than {MOST_BYTES * 2 // 2**20} MB when unpacked: split it")
    left = MOST_BYTES * 2
    try:
        with zipfile.ZipFile(archive) as files:
            entries = [entry for entry in files.infolist() if entry.filename.lower().endswith(SUFFIXES)]
            if len(entries) > MOST_PICTURES:
                raise UserError(f"{archive} holds more than {MOST_PICTURES} pictures: split it")
            for entry in entries:
                parts = [re.sub(r"[^\w .()-]", "_", part) for part in PurePosixPath(entry.filename).parts]
                target = folder.joinpath(*(part for part in parts if part.strip(". ") and part != "_"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with files.open(entry) as source, target.open("wb") as copy:
                    while block := source.read(2**20):  # the sizes in a zip's index need not be true
                        if (left := left - len(block)) < 0:
                            raise too_large
                        copy.write(block)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}): zip it again, without a password") from None


def fill_batch(fill: Callable[..., np.ndarray], files: Sequence[Path], work: Path, **options: Any) -> tuple[Path, str]:
    """Fill pictures with masks, named as for :func:`~lama_minimal.inference.inpaint_folder`, or zips of such.

    Args:
        fill: as :meth:`Inpainter.__call__ <lama_minimal.inference.Inpainter.__call__>`.
        files: pictures, masks and zips.
        work: an empty folder.
        options: for :func:`~lama_minimal.inference.inpaint_folder`.

    Returns:
        A zip of the results, and what became of each picture.

    Raises:
        UserError: no files, a zip that cannot be unpacked, or no image with a mask.
    """
    sent, filled, result = work / "sent", work / "filled", work / "filled.zip"
    sent.mkdir()
    if len(files) > MOST_PICTURES:
        raise UserError(f"more than {MOST_PICTURES} pictures at once: make several batches")
    for file in files:
        if file.suffix.lower() == ".zip":
            unpack(file, sent)
        else:
            shutil.copyfile(file, sent / file.name)
    left = MOST_BATCH_PIXELS

    def fill_within_limit(image: Path, mask: Path, **how: Any) -> np.ndarray:
        nonlocal left
        if left <= 0:
            raise UserError(f"the batch has more than {MOST_BATCH_PIXELS // 10**6} megapixels: split it")
        pixels = fill(image, mask, **how)
        left -= pixels.shape[0] * pixels.shape[1]
        return pixels

    summary = str(inpaint_folder(fill_within_limit, sent, filled, **options)).replace(f"{sent}{os.sep}", "")
    with zipfile.ZipFile(result, "w") as archive:  # PNG is compressed already
        for path in sorted(filled.rglob("*.png")):
            archive.write(path, path.relative_to(filled))
        archive.writestr("report.txt", summary + "\n")
    return result, summary


# --------------------------------------------------------------------------------------------------------------- page

TITLE = "LaMa · remove things from pictures"
HEADER = """
<h1>Remove things from pictures</h1>
<p>Choose a picture, paint over what should disappear, press <b>Fill</b>.</p>
"""
BATCH_HELP = """\
Choose pictures together with their masks, or one zip of them: `photo.jpg` with `photo_mask.png`, or with several masks
`photo_mask001.png`, `photo_mask002.png`, … each of which gives one result. A mask is of its picture's size and not
black where something shall be filled.
"""
PROGRAM_HELP = f"""\
Programs use the same server. From Python, after `pip install gradio_client`:

```python
{API_EXAMPLE}```
"""
STRATEGIES = [("automatic", "auto"), ("whole picture", "whole"), ("crops", "crop"), ("shrunken", "resize")]
EDITOR_HEIGHT = "min(460px, 78vw)"
BRUSH = dict(color_mode="fixed", colors=[("#{:02x}{:02x}{:02x}".format(*MASK_COLOUR), MASK_OPACITY)])
STYLE = """
.gradio-container { width: 100% !important; max-width: 1240px !important; margin: 0 auto !important; }
.lama-header, .lama-header .html-container { padding: 0 !important; }
.lama-header h1 { margin: 0.1em 0; font-size: 1.7rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; }
.lama-header p { margin: 0; font-size: 1rem; opacity: 0.8; }
.lama-report p { margin: 0; }
.lama-report:not(:has(p)) { display: none; }
.lama-examples, .lama-examples .grid-wrap { min-height: 0 !important; height: auto !important; }
.lama-examples { border: 0 !important; background: none !important; }
.lama-examples .grid-wrap { padding: 0 !important; }
.lama-examples .grid-container { grid-template-columns: repeat(auto-fill, minmax(76px, 116px)) !important; }
.lama-examples .thumbnail-lg { aspect-ratio: 4 / 3 !important; }
"""


@contextmanager
def named(names: dict[Path, str]) -> Iterator[None]:
    """In mistakes, the visitor's names of files instead of where they lie on the server."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for path, name in names.items():
            text = text.replace(str(path), name)
        raise UserError(text[:1].upper() + text[1:]) from None


def for_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event's function that shows a mistake beside the page and leaves the page as it is."""

    @wraps(function)
    def event(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            gr.Warning(str(error), duration=12, title="Not yet")
            return gr.skip()

    return event


def for_programs(function: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint's function whose mistakes end the call, with their one line and without a traceback."""

    @wraps(function)
    def event(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return event


class Desk:
    """What the page's buttons do. A visitor's picture lies in ``picture/`` of the visitor's folder, under its name."""

    def __init__(self, models: Models, workspace: Workspace) -> None:
        self.models, self.workspace = models, workspace

    def open(self, file: str, request: gr.Request) -> list[Any]:
        """Take over an uploaded picture."""
        source = Path(file)
        with named({source: source.name}):
            check_header(source)
            rgb, alpha = read_picture(source)
        shutil.copyfile(source, self._cleared(request) / source.name)
        return self._shown(request, rgb if alpha is None else np.dstack([rgb, alpha]))

    def open_example(self, request: gr.Request, choice: gr.SelectData) -> list[Any]:
        """Take over an example with its mask."""
        name = list(EXAMPLES)[choice.index]
        image, mask = EXAMPLES[name].draw()
        save_image(image, self._cleared(request) / f"{name}.png")
        return self._shown(request, image, mask)

    def open_mask(self, file: str, request: gr.Request) -> list[Any]:
        """Paint a mask from a file on the visitor's picture."""
        source, picture = Path(file), self._picture(request)
        with named({source: source.name, picture: picture.name}):
            check_header(source)
            rgb, alpha = read_picture(picture)
            mask = read_mask(source, rgb.shape[:2])
        return self._shown(request, rgb if alpha is None else np.dstack([rgb, alpha]), mask)

    def _cleared(self, request: gr.Request) -> Path:
        """The place for the visitor's picture, empty."""
        place = self.workspace.visit(request.session_hash) / "picture"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def _picture(self, request: gr.Request) -> Path:
        """The visitor's picture, marked as used now."""
        place = self.workspace.visit(request.session_hash) / "picture"
        picture = next(place.iterdir(), None) if place.is_dir() else None
        if picture is None:
            raise UserError("Choose a picture first")
        os.utime(picture)
        return picture

    def _shown(self, request: gr.Request, pixels: np.ndarray, mask: np.ndarray | None = None) -> list[Any]:
        """Show a picture, and a mask painted on it, to be painted on."""
        folder, size = self._fresh(request), preview_size(*pixels.shape[:2])
        background, layers = preview(pixels, folder / "picture.jpg"), []
        if mask is not None:
            opacity = np.uint8(255 * MASK_OPACITY) * mask
            layer = np.dstack([np.broadcast_to(np.uint8(MASK_COLOUR), (*mask.shape, 3)), opacity])
            save_image(cv2.resize(layer, size, interpolation=cv2.INTER_AREA), folder / "mask.png")
            layers.append(str(folder / "mask.png"))
        value = {"background": background, "layers": layers, "composite": None}
        width = max(8, max(size) // 25)
        brush, eraser = gr.Brush(default_size=width, **BRUSH), gr.Eraser(default_size=width)
        editor = gr.ImageEditor(value, brush=brush, eraser=eraser, canvas_size=size)
        todo = "Paint over what should disappear" if mask is None else "Change what is painted over"
        text = f"{pixels.shape[1]} × {pixels.shape[0]} pixels. {todo}, then press **Fill**."
        chosen = [gr.File(visible=False), gr.Column(visible=True)]
        return [
            background,
            editor,
            text,
            *chosen,
            gr.ImageSlider(None, visible=False),
            gr.DownloadButton(visible=False),
        ]

    def _fresh(self, request: gr.Request) -> Path:
        """A new folder of the visitor, since browsers keep what once had the same address."""
        folder = self.workspace.visit(request.session_hash) / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def fill(
        self,
        painting: dict[str, Any] | None,
        before: str | None,
        model: str,
        strategy: Strategy,
        refine: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it in
    ) -> tuple[Any, ...]:
        """Fill what was painted: before and after, a line about it, and the file."""
        picture = self._picture(request)
        layers = [Path(layer["path"]) for layer in (painting or {}).get("layers", [])]
        with named({picture: picture.name}):
            result, filled, seconds = self._fill(picture, layers, model, strategy, refine, request, progress)
        height, width = filled.shape[:2]
        after = preview(filled, result.with_name("after.jpg"))
        report = f"Filled in {seconds:.1f} s. The file has {width} × {height} pixels, unchanged outside the paint."
        return gr.ImageSlider((before, after), visible=True), report, gr.DownloadButton(value=result, visible=True)

    def inpaint(
        self,
        image: str,
        mask: str,
        model: str | None = None,
        strategy: Strategy = "auto",
        refine: bool = False,
        request: gr.Request | None = None,
    ) -> str:
        """Fill a hole in a picture.

        Args:
            image: the picture.
            mask: a picture of the same size, not black where something shall be filled.
            model: one of the models on offer; None = the first.
            strategy: auto, whole, crop or resize.
            refine: from coarse to fine, slower.
            request: who asks.

        Returns:
            A PNG of the picture's size; every pixel outside the mask as it was.
        """
        if not image or not mask:
            raise UserError("Give an image and a mask")
        names = {Path(image): f"image {Path(image).name}", Path(mask): f"mask {Path(mask).name}"}
        with named(names):
            return str(self._fill(Path(image), Path(mask), model, strategy, refine, request)[0])

    def _fill(
        self,
        picture: Path,
        mask: Path | Sequence[Path],
        model: str | None,
        strategy: Strategy,
        refine: bool,
        request: gr.Request,
        progress: gr.Progress | None = None,
    ) -> tuple[Path, np.ndarray, float]:
        """The result, its pixels, and how long it took."""
        folder, options = self._fresh(request), dict(strategy=strategy, refine=refine)
        with self.models.use(model) as inpainter:
            started = time.perf_counter()
            options["progress"] = self._reporter(folder, progress, "crops")
            filled = fill_picture(inpainter, picture, mask, **options)
            seconds = time.perf_counter() - started
        result = folder / f"{picture.stem}-filled.png"
        save_image(filled, result, icc_profile=colour_profile(picture))
        return result, filled, seconds

    @staticmethod
    def _reporter(folder: Path, progress: gr.Progress | None, unit: str) -> Progress:
        """What shows progress, and ends the work once the visitor's folder is gone."""

        def report(done: int, total: int) -> None:
            if not folder.exists():
                raise UserError("The visitor left")
            if progress is not None:
                progress((done, total), desc="Filling", unit=unit)

        return report

    def fill_many(
        self,
        files: list[str] | None,
        model: str,
        strategy: Strategy,
        refine: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it in
    ) -> tuple[Any, str]:
        """A zip of results, and what became of each picture."""
        sent, folder = [Path(file) for file in files or []], self._fresh(request)
        if not sent:
            raise UserError("Choose pictures and masks, or a zip, first")
        options = dict(strategy=strategy, refine=refine, progress=self._reporter(folder, progress, "pictures"))
        with (
            named({path: path.name for path in sent}),
            tempfile.TemporaryDirectory(dir=self.workspace.root) as work,
            self.models.use(model) as inpainter,
        ):
            started = time.perf_counter()
            made, summary = fill_batch(partial(fill_picture, inpainter), sent, Path(work), **options)
            result = shutil.move(made, folder / "filled.zip")
        seconds = time.perf_counter() - started
        return gr.File(str(result), visible=True), f"In {seconds:.1f} s:\n```\n{summary}\n```"

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.workspace.forget(request.session_hash)


ALONE = dict(concurrency_id="network", concurrency_limit=1)
"""Events that use a network: one at a time among all of them."""
PRIVATE = dict(api_visibility="private")


def build_page(desk: Desk) -> gr.Blocks:
    """The page: its parts, and which of the desk's functions each of them calls."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(HEADER, elem_classes="lama-header", padding=False)
        with gr.Tab("One picture"):
            one_picture(desk)
        with gr.Tab("Many"):
            many_pictures(desk)
        with gr.Tab("Programs"):
            gr.Markdown(PROGRAM_HELP)
            add_endpoint(desk)
        page.unload(desk.leave)
    return page


def one_picture(desk: Desk) -> None:
    """The tab for one picture: choose or paint on the left, the result on the right, examples and settings below."""
    before = gr.State()
    with gr.Row():
        with gr.Column(min_width=320):
            drop = gr.File(label="Picture", file_types=PICTURE_SUFFIXES, height=300)
            with gr.Column(visible=False) as paint:
                editor = gr.ImageEditor(
                    label="Paint", sources=(), transforms=(), layers=False, buttons=[],
                    format="png", height=EDITOR_HEIGHT,
                )  # fmt: skip
                with gr.Row():
                    fill = gr.Button("Fill", variant="primary", min_width=140)
                    other = gr.UploadButton("New picture", file_types=PICTURE_SUFFIXES, min_width=140)
        with gr.Column(min_width=320):
            slider = gr.ImageSlider(
                label="Before and after", interactive=False, buttons=["fullscreen"], visible=False, max_height=460
            )
            report = gr.Markdown("", elem_classes="lama-report")
            download = gr.DownloadButton("Download the picture (PNG)", visible=False)
            gr.Markdown("Or try one of these, with something painted over already:", elem_classes="lama-report")
            gallery = gr.Gallery(
                example_files(desk.workspace.page), show_label=False, height="auto", allow_preview=False,
                interactive=False, buttons=[], elem_classes="lama-examples",
            )  # fmt: skip
    with gr.Accordion("Settings", open=False):
        settings = setting_controls(desk.models.names)
        mask = gr.UploadButton("Use a mask from a file instead of painting", file_types=PICTURE_SUFFIXES, size="sm")
    parts = [before, editor, report, drop, paint, slider, download]  # as Desk._shown gives them
    reading = dict(concurrency_id="reading", concurrency_limit=1, **PRIVATE)
    drop.upload(for_page(desk.open), drop, parts, **reading)
    other.upload(for_page(desk.open), other, parts, **reading)
    mask.upload(for_page(desk.open_mask), mask, parts, **reading)
    gallery.select(for_page(desk.open_example), None, parts, **reading)
    # The painting is handed on as it came: Gradio would decode it before anything is looked at.
    results = [slider, report, download]
    fill.click(
        for_page(desk.fill),
        [editor, before, *settings],
        results,
        preprocess=False,
        show_progress_on=editor,
        **ALONE,
        **PRIVATE,
    )


def many_pictures(desk: Desk) -> None:
    """The tab for batches."""
    gr.Markdown(BATCH_HELP)
    files = gr.File(label="Pictures and masks, or a zip", file_count="multiple", file_types=[*SUFFIXES, ".zip"])
    with gr.Accordion("Settings", open=False):
        settings = setting_controls(desk.models.names)
    fill = gr.Button("Fill all", variant="primary")
    result, report = gr.File(label="Results", interactive=False, visible=False), gr.Markdown()
    fill.click(
        for_page(desk.fill_many), [files, *settings], [result, report], show_progress_on=files, **ALONE, **PRIVATE
    )


def setting_controls(models: Sequence[str]) -> list[gr.components.Component]:
    """Model, strategy and refinement."""
    with gr.Row():
        return [
            gr.Dropdown(list(models), value=models[0], label="Model", interactive=len(models) > 1),
            gr.Radio(STRATEGIES, value="auto", label="Strategy", info=f"automatic: crops above {LONG_SIDE} pixels"),
            gr.Checkbox(label="Refine", info="better in large holes of large pictures, and much slower"),
        ]


def example_files(folder: Path) -> list[str]:
    """Thumbnails of the examples, written to ``folder``."""
    for name, example in EXAMPLES.items():
        save_image(enlarge(overlay_mask(*example.draw()), 320), folder / f"{name}.jpg")
    return [str(folder / f"{name}.jpg") for name in EXAMPLES]


def add_endpoint(desk: Desk) -> None:
    """The endpoint for programs, ``/inpaint``, with the parameters of :meth:`Desk.inpaint`."""
    image, mask, result = (gr.File(label=label, visible=False) for label in ("image", "mask", "filled"))
    model = gr.Textbox(desk.models.names[0], label="model", info=", ".join(desk.models.names), visible=False)
    strategy = gr.Textbox("auto", label="strategy", info=", ".join(get_args(Strategy)), visible=False)
    refine = gr.Checkbox(label="refine", visible=False)
    call = gr.Button(visible=False)
    call.click(for_programs(desk.inpaint), [image, mask, model, strategy, refine], result, api_name="inpaint", **ALONE)


def read_passwords(file: Path | None) -> list[tuple[str, str]] | None:
    """Names and passwords from a file, or from the environment's ``LAMA_MINIMAL_PASSWORD``: NAME:PASSWORD, one a line.

    They are not given on the command line, which everybody on a machine can read. None = there are none.

    Raises:
        UserError: unreadable, or not of this form.
    """
    try:
        text = os.environ.get("LAMA_MINIMAL_PASSWORD", "") if file is None else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the passwords in {file}: {error}") from None
    if file is None and not text:
        return None
    pairs = [tuple(line.split(":", 1)) for line in text.splitlines() if line.strip()]
    if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise UserError(f"expected a line NAME:PASSWORD for each visitor in {file or '$LAMA_MINIMAL_PASSWORD'}")
    return pairs


def serve(
    models: Sequence[str],
    passwords: list[tuple[str, str]] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str | None = None,
    precision: Precision = "auto",
) -> None:
    """Serve the page until Ctrl+C or SIGTERM.

    Args:
        models: as for :class:`Models`.
        passwords: names and passwords, of which visitors must give one; None = none.
        host: address to listen on; 0.0.0.0 = all of this machine's.
        port: where.
        device: as for :class:`Models`.
        precision: as for :class:`Models`.

    Raises:
        UserError: no model, or the address cannot be listened on.
    """
    offered, end = Models(models, device, precision), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    with open_workspace() as workspace:
        page = build_page(Desk(offered, workspace)).queue(max_size=MOST_WAITING, api_open=False)
        guard = dict(middleware=[Middleware(Guard, workspace=workspace)], docs_url=None, redoc_url=None)
        off = dict.fromkeys(("share", "enable_monitoring", "run_history", "ssr_mode", "mcp_server", "pwa"), False)
        try:
            page.launch(
                server_name=host, server_port=port, auth=passwords, max_file_size=MOST_BYTES, app_kwargs=guard,
                theme=theme(), css=STYLE, footer_links=[], prevent_thread_lock=True, quiet=True, inline=False, **off,
            )  # fmt: skip
            if passwords is None and host not in ("127.0.0.1", "localhost", "::1"):
                print("anyone who can reach this machine can use the page: see --password-file", flush=True)
            print(f"open {page.local_url} in a browser; Ctrl+C ends it", flush=True)
            while not end.wait(0.5):  # not for ever: Python acts on signals between two waits
                pass
        except OSError:
            raise UserError(f"cannot listen on {host}, port {port}: if it is taken, choose another --port") from None
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def theme() -> gr.themes.Base:
    """The project's blue, and fonts that every machine has: none is fetched."""
    look = gr.themes.Default(
        primary_hue=gr.themes.colors.sky,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return look.set(
        button_primary_background_fill=PALETTE["blue"],
        button_primary_background_fill_dark=PALETTE["blue"],
        button_primary_background_fill_hover="#005f96",
        button_primary_background_fill_hover_dark="#005f96",
    )
