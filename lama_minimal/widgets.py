"""Painting masks in a notebook, and filling them while one paints (extra ``course``).

The browser draws, Python keeps the truth: a list of *strokes* in image coordinates, from which :func:`rasterise` makes
the mask. ``static/painter.js`` draws the same strokes by the same arithmetic, so both have the same mask to the pixel
(up to :data:`PREVIEW_SIDE`; larger pictures are painted at a preview's resolution and rasterised here at their own).
Only a new stroke travels, and only it is drawn: the hundredth costs as much as the first.

Strokes are dictionaries that JSON can hold; points are (x, y) in pixels, (0, 0) is the picture's upper left corner and
the first pixel's centre is at (0.5, 0.5)::

    {"tool": "brush", "size": 40.0, "points": [[12.5, 80.0], [60.0, 82.5]]}  # size: diameter; "eraser" alike
    {"tool": "box", "points": [[10, 20], [200, 90]]}                         # two opposite corners
    {"tool": "invert"}, {"tool": "clear"}
    {"tool": "mask", "runs": [120, 8, 500]}   # a whole mask: lengths of runs, row by row, known and hole in turn
"""

import base64
import io
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anywidget
import cv2
import numpy as np
import traitlets
from PIL import Image

from lama_minimal.config import UserError
from lama_minimal.inference import Inpainter, Source, Strategy, read_mask, read_picture, save_image
from lama_minimal.viz import MASK_COLOUR, MASK_OPACITY, enlarge, grid, overlay_mask

Stroke = dict[str, Any]
"""One step of painting; see the top of this module."""

PREVIEW_SIDE = 4096
"""Pixels: pictures with a longer side are shown smaller in the browser, which has no room for more on a phone."""
STATIC_SIDE = 800
"""Pixels: longer side of the picture that stands in a notebook where no widget can be shown."""
CHECKPOINT = 16
"""Strokes between two masks that are kept, so that undo replays few."""

_STATIC = Path(__file__).parent / "static"


# ---------------------------------------------------------------------------------------------------------- strokes


def check_stroke(stroke: object, size: tuple[int, int]) -> Stroke:
    """The stroke itself, if it is one.

    Args:
        stroke: what may be a stroke.
        size: (H, W) of the picture.

    Raises:
        UserError: it is none, and why.
    """
    tool = stroke.get("tool") if isinstance(stroke, dict) else None
    points = stroke.get("points") if tool in ("brush", "eraser", "box") else None
    if tool in ("invert", "clear"):
        return stroke
    if tool == "mask":
        runs = np.asarray(stroke.get("runs", ()))
        if runs.ndim == 1 and runs.dtype.kind in "iu" and runs.min(initial=0) >= 0 and runs.sum() == math.prod(size):
            return stroke
        raise UserError(f"a mask's runs must be whole numbers that sum to {size[1]} x {size[0]} pixels")
    if tool not in ("brush", "eraser", "box"):
        raise UserError(f'expected a stroke such as {{"tool": "box", "points": [[0, 0], [9, 9]]}}, got {stroke!r:.80}')
    try:
        numbers = np.asarray(points, float)
        size_fits = tool == "box" or 0 < float(stroke.get("size", 0)) < math.inf
    except (TypeError, ValueError):
        numbers, size_fits = np.empty(0), False
    counted = numbers.ndim == 2 and numbers.shape[1] == 2 and (len(numbers) == 2 or (tool != "box" and len(numbers)))
    if not (counted and size_fits and np.isfinite(numbers).all()):
        raise UserError(
            f"a {tool} needs points [[x, y], ...]" + (", two corners" if tool == "box" else " and a size above 0")
        )
    return stroke


def mask_stroke(mask: np.ndarray) -> Stroke:
    """A whole mask, bool (H, W), as one stroke."""
    flat = np.asarray(mask, bool).ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False)) if flat.size else np.empty(0, int)
    return {"tool": "mask", "runs": np.diff(changes, prepend=0, append=flat.size).tolist()}


def rasterise(strokes: Sequence[Stroke], size: tuple[int, int]) -> np.ndarray:
    """The mask that the strokes paint on an empty picture, one after another.

    A pixel belongs to a brush stroke if its centre is at most half the brush's size from the line through its points,
    and to a box if its centre lies in it.

    Args:
        strokes: see the top of this module.
        size: (H, W) of the picture.

    Returns:
        (H, W) bool, True = hole.

    Raises:
        UserError: one of the strokes is none.
    """
    mask = np.zeros(size, bool)
    for stroke in strokes:
        _apply(mask, check_stroke(stroke, size))
    return mask


def _apply(mask: np.ndarray, stroke: Stroke) -> None:
    """Paint one stroke on the mask, in place."""
    match stroke["tool"]:
        case "brush":
            window, covered = _swept(mask, np.asarray(stroke["points"], float), float(stroke["size"]) / 2)
            window |= covered
        case "eraser":
            window, covered = _swept(mask, np.asarray(stroke["points"], float), float(stroke["size"]) / 2)
            window &= ~covered
        case "box":
            (x0, y0), (x1, y1) = stroke["points"]
            mask[_centres(y0, y1, mask.shape[0]), _centres(x0, x1, mask.shape[1])] = True
        case "invert":
            np.logical_not(mask, out=mask)
        case "clear":
            mask[:] = False
        case "mask":
            runs = stroke["runs"]
            mask.ravel()[:] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _centres(start: float, stop: float, length: int) -> slice:
    """The pixels of a side of ``length`` whose centres lie between two coordinates, whichever is the larger."""
    low, high = min(start, stop), max(start, stop)
    first = min(max(math.ceil(low - 0.5), 0), length)
    return slice(first, max(first, min(math.floor(high - 0.5) + 1, length)))


def _swept(mask: np.ndarray, points: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels within ``radius`` of a chain of segments: a window of the mask, and which of its pixels they are.

    What a disc sweeps along a segment is convex, hence one span in each row. The spans of all segments are marked by
    where they begin and end; summed along the rows, the marks say how many spans cover a pixel.
    """
    (left, top), (right, bottom) = points.min(axis=0) - radius, points.max(axis=0) + radius
    rows, columns = _centres(top, bottom, mask.shape[0]), _centres(left, right, mask.shape[1])
    window = mask[rows, columns]
    height, width = window.shape
    if not window.size:
        return window, np.zeros((height, width), bool)
    ends = points if len(points) > 1 else points.repeat(2, axis=0)
    row, first, last = _spans(ends[:-1], ends[1:], radius, rows)
    first = np.clip(first, columns.start, columns.stop) - columns.start
    last = np.clip(last + 1, columns.start, columns.stop) - columns.start
    keep = first < last
    marks = np.zeros((height, width + 1), np.int32)
    np.add.at(marks, (row[keep], first[keep]), 1)
    np.add.at(marks, (row[keep], last[keep]), -1)
    return window, np.cumsum(marks[:, :-1], axis=1) > 0


def _spans(
    start: np.ndarray, stop: np.ndarray, radius: float, rows: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each segment and each row it reaches: the row (from ``rows.start``), the first and the last pixel.

    Args:
        start: (N, 2) points.
        stop: (N, 2) points.
        radius: of the disc that is swept, pixels.
        rows: rows that count.
    """
    low, high = np.minimum(start[:, 1], stop[:, 1]), np.maximum(start[:, 1], stop[:, 1])
    top = np.clip(np.ceil(low - radius - 0.5), rows.start, rows.stop).astype(int)
    count = np.clip(np.floor(high + radius - 0.5) + 1, top, rows.stop).astype(int) - top
    segment = np.repeat(np.arange(len(start)), count)
    row = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count) + top[segment]
    y = row + 0.5
    (ax, ay), (bx, by) = start[segment].T, stop[segment].T
    with np.errstate(invalid="ignore", divide="ignore"):  # rows that miss a disc or an edge give nan, which fmin skips
        half_a, half_b = (np.sqrt(radius * radius - (y - middle) * (y - middle)) for middle in (ay, by))
        dx, dy = bx - ax, by - ay
        length = np.sqrt(dx * dx + dy * dy)
        across_x, across_y = -dy * radius / length, dx * radius / length
        edges = []
        for side in (1, -1):
            along = (y - (ay + side * across_y)) / dy
            edges.append(np.where((along >= 0) & (along <= 1), ax + side * across_x + along * dx, np.nan))
    first = np.fmin.reduce([ax - half_a, bx - half_b, *edges])
    last = np.fmax.reduce([ax + half_a, bx + half_b, *edges])
    reached = ~np.isnan(first)
    first, last = np.ceil(first[reached] - 0.5).astype(int), np.floor(last[reached] - 0.5).astype(int)
    return row[reached] - rows.start, first, last


class _Replay:
    """The mask of a list of strokes that grows and shrinks at its end: work done once is not done again."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._mask = np.zeros(size, bool)
        self._done: list[Stroke] = []
        self._kept: dict[int, np.ndarray] = {0: np.packbits(self._mask)}

    def mask(self, strokes: Sequence[Stroke]) -> np.ndarray:
        """The mask, (H, W) bool; the next call changes it in place."""
        pairs = zip(self._done, strokes, strict=False)
        common = next((index for index, (old, new) in enumerate(pairs) if old is not new), None)
        common = min(len(self._done), len(strokes)) if common is None else common
        if common < len(self._done):
            self._kept = {count: packed for count, packed in self._kept.items() if count <= common}
            common = max(self._kept)
            flat = np.unpackbits(self._kept[common], count=self._mask.size)
            self._mask[:] = flat.reshape(self._mask.shape)
        for count, stroke in enumerate(strokes[common:], start=common + 1):
            _apply(self._mask, stroke)
            if count % CHECKPOINT == 0:
                self._kept[count] = np.packbits(self._mask)
        self._done = list(strokes)
        return self._mask


def _bounded(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture, made smaller if its longer side exceeds ``side`` pixels."""
    return enlarge(picture, side) if max(picture.shape) > side else picture


def _encoded(picture: np.ndarray) -> tuple[str, bytes]:
    """MIME type and bytes of a picture (H, W, 3) for the browser: small ones exact, larger ones as JPEG."""
    kind, settings = ("PNG", {}) if picture.shape[0] * picture.shape[1] <= 512 * 512 else ("JPEG", dict(quality=92))
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **settings)
    return f"image/{kind.lower()}", file.getvalue()


# ---------------------------------------------------------------------------------------------------------- painter


class MaskPainter(anywidget.AnyWidget):
    """Paint a mask over a picture, in JupyterLab, Colab or VS Code.

    >>> painter = MaskPainter("photograph.jpg")
    >>> painter  # the last line of a cell shows it; paint, and then
    >>> filled = inpainter("photograph.jpg", painter.mask)

    Where no widget can be shown (a page on GitHub, an export) a picture with the mask stands in its place.
    """

    _esm = _STATIC / "painter.js"
    _css = _STATIC / "painter.css"
    _ipython_display_ = None  # ipywidgets 7 has one, which would leave out the static picture of _repr_mimebundle_
    _live = False

    strokes = traitlets.List(help="What was painted, oldest first; may be set and observed.")
    # What a browser needs when it (re)connects; read when it is sent, so that new strokes need not resend old ones.
    _snapshot = traitlets.Any().tag(sync=True, to_json=lambda _, painter: painter._state())
    _photo = traitlets.Bytes().tag(sync=True)
    _settings = traitlets.Dict().tag(sync=True)

    def __init__(
        self, image: Source, mask: Source | None = None, *, strokes: Sequence[Stroke] = (), **layout: Any
    ) -> None:
        """Show a picture, with a mask to start from.

        Args:
            image: path, PIL image, or uint8 array (H, W), (H, W, 3) or (H, W, 4).
            mask: as for :func:`~lama_minimal.inference.read_mask`.
            strokes: painted over the mask.
            layout: passed on to ipywidgets.

        Raises:
            UserError: unreadable image, mask or strokes.
        """
        rgb, alpha = read_picture(image)
        self._rgb, self._alpha, self._size = rgb, alpha, rgb.shape[:2]
        self._replay, self._epoch = _Replay(self._size), 0
        self._valid: list[Stroke] = []  # what needs no second check
        self._serial: int | None = None  # of the browser's message that is being acted on
        first = [] if mask is None else [mask_stroke(read_mask(mask, self._size))]
        height, width = self._size
        settings = dict(width=width, height=height, colour=list(MASK_COLOUR), opacity=MASK_OPACITY, live=self._live)
        photo = _encoded(_bounded(rgb, PREVIEW_SIDE))[1]
        super().__init__(_photo=photo, _settings=settings, strokes=[*first, *strokes], **layout)
        self.on_msg(self._receive)

    @property
    def mask(self) -> np.ndarray:
        """The mask, (H, W) bool, True = hole; set it to anything that ``read_mask`` reads. Undo brings the old back."""
        return self._replay.mask(self.strokes).copy()

    @mask.setter
    def mask(self, source: Source) -> None:
        self.strokes = [*self.strokes, mask_stroke(read_mask(source, self._size))]

    def save_mask(self, path: str | Path) -> None:
        """Write the mask as a picture, white = hole; .png is best.

        Raises:
            UserError: unknown suffix, or it cannot be written.
        """
        save_image(self.mask.astype(np.uint8) * 255, path)

    @traitlets.validate("strokes")
    def _check_strokes(self, proposal: dict[str, Any]) -> list[Stroke]:
        known = {id(stroke) for stroke in self._valid}
        strokes = list(proposal["value"])
        self._valid = [stroke if id(stroke) in known else check_stroke(stroke, self._size) for stroke in strokes]
        return strokes

    @traitlets.observe("strokes")
    def _tell_browser(self, _: object) -> None:
        if self._serial is None and self.comm is not None:
            self._publish()

    def _state(self) -> dict[str, Any]:
        return dict(epoch=self._epoch, strokes=self.strokes)

    def _publish(self) -> None:
        """Send all strokes; what a browser painted before it has them is void, which it sees by the epoch."""
        self._epoch += 1
        self.send_state("_snapshot")

    def _receive(self, _: object, content: dict[str, Any], buffers: list[Any]) -> None:
        """Act on a message of the browser."""
        match content.get("op"):
            case "append" | "undo":
                self._take_stroke(content)
            case "import":
                self._import(bytes(buffers[0]))
            case "download":
                self._send_file(str(content.get("what")))

    def _take_stroke(self, content: dict[str, Any]) -> None:
        if content["epoch"] != self._epoch:
            return
        if content["at"] != len(self.strokes):  # two browsers painted at once: the first one wins, both learn of it
            self._publish()
            return
        self._serial = content["serial"]
        try:
            self.strokes = self.strokes[:-1] if content["op"] == "undo" else [*self.strokes, content["stroke"]]
        finally:
            self._serial = None

    def _import(self, content: bytes) -> None:
        """Take over a mask file that was chosen in the browser."""
        try:
            with Image.open(io.BytesIO(content)) as picture:
                self.mask = picture
        except UserError as error:
            self.send(dict(op="error", text=str(error)))
        except (OSError, Image.DecompressionBombError):
            self.send(dict(op="error", text="this file is not a picture that can be read: choose a png or jpg"))

    def _file(self, what: str) -> tuple[str, np.ndarray]:
        """Name and pixels of a file that the browser may download."""
        return "mask.png", self.mask.astype(np.uint8) * 255

    def _send_file(self, what: str) -> None:
        name, pixels = self._file(what)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=3)
        self.send(dict(op="download", name=name), buffers=[file.getvalue()])

    def _static_picture(self) -> np.ndarray:
        """(h, w, 3) uint8, of bounded size: what stands for the widget where there is none."""
        small = _bounded(self._rgb, STATIC_SIDE)
        share = cv2.resize(self.mask.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        return overlay_mask(small, share >= 0.5)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        kind, content = _encoded(self._static_picture())
        (height, width), share = self._size, self.mask.mean()
        words = f"A picture of {width} × {height} pixels, {share:.1%} of it painted over."
        bundle[0].update({kind: base64.b64encode(content).decode(), "text/plain": words})
        bundle[1][kind] = {"alt": words}
        return bundle


# ----------------------------------------------------------------------------------------------------------- filling


class _Superseded(Exception):  # noqa: N818 - no error: something newer is wanted
    """The mask that is being filled is no longer the newest."""


class LiveInpainter(MaskPainter):
    """Paint, release, and see the hole filled; a slider compares before and after.

    The network runs in a thread of its own, so cells can be run and strokes painted meanwhile; the newest mask wins.

    >>> live = LiveInpainter("photograph.jpg", Inpainter.load("big-lama"))
    >>> live  # the last line of a cell shows it; paint, and then
    >>> live.save("filled.png")
    """

    _live = True
    # {"state": "empty" | "busy" | "done" | "error", "serial", "seconds", "error", "box": [x, y, w, h], "picture"}
    _fill = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        image: Source,
        inpainter: Inpainter,
        mask: Source | None = None,
        *,
        strokes: Sequence[Stroke] = (),
        strategy: Strategy = "crop",
        **layout: Any,
    ) -> None:
        """Show a picture and fill whatever is painted on it.

        Args:
            image: as for :class:`MaskPainter`.
            inpainter: what fills the holes.
            mask: as for :class:`MaskPainter`; filled at once.
            strokes: as for :class:`MaskPainter`.
            strategy: as for :meth:`Inpainter.__call__ <lama_minimal.inference.Inpainter.__call__>`.
            layout: passed on to ipywidgets.

        Raises:
            UserError: unreadable image, mask or strokes.
        """
        super().__init__(image, mask, strokes=strokes, **layout)
        self._inpainter, self._strategy = inpainter, strategy
        self._picture = self._rgb if self._alpha is None else np.dstack([self._rgb, self._alpha])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live-inpainting")
        self.observe(self._request, "strokes")
        self._request()

    @property
    def result(self) -> np.ndarray:
        """The filled picture, uint8 (H, W, 3), or (H, W, 4) if the image had alpha; waits until it is ready.

        Raises:
            UserError: it could not be filled, and why.
        """
        return self._filled.result().copy()

    def save(self, path: str | Path) -> None:
        """Write the filled picture, in its full size.

        Raises:
            UserError: it could not be filled, or not be written.
        """
        save_image(self.result, path)

    def _request(self, _: object = None) -> None:
        """Have the present mask filled; what waits or runs for older masks ends soon."""
        self._newest = mask = self.mask
        self._fill = dict(state="busy" if mask.any() else "empty", serial=self._serial)
        started, serial = time.perf_counter(), self._serial
        self._filled = self._thread.submit(self._run, mask)
        self._filled.add_done_callback(lambda filled: self._show(mask, filled, serial, time.perf_counter() - started))

    def _run(self, mask: np.ndarray) -> np.ndarray:
        def check(*_: int) -> None:
            if self._newest is not mask:
                raise _Superseded

        check()
        return self._inpainter(self._picture, mask, strategy=self._strategy, progress=check)

    def _show(self, mask: np.ndarray, filled: Future[np.ndarray], serial: int | None, seconds: float) -> None:
        """Send what became of the newest mask to the browser: the part of the picture that changed, or one line."""
        if self._newest is not mask or not mask.any():
            return
        if error := filled.exception():
            text = str(error).partition("\n")[0]
            text = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
            self._fill = dict(state="error", serial=serial, error=text)
            return
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        box = [int(columns[0]), int(rows[0]), int(columns[-1] + 1 - columns[0]), int(rows[-1] + 1 - rows[0])]
        content = _encoded(_bounded(filled.result()[..., :3][window], PREVIEW_SIDE))[1]
        self._fill = dict(state="done", serial=serial, seconds=round(seconds, 2), box=box, picture=content)

    def _file(self, what: str) -> tuple[str, np.ndarray]:
        return ("filled.png", self.result) if what == "picture" else super()._file(what)

    def _static_picture(self) -> np.ndarray:
        painted = super()._static_picture()
        if not self._filled.done() or self._filled.exception():
            return painted
        return grid([painted, _bounded(self._filled.result()[..., :3], STATIC_SIDE)], columns=2, gap=8)
