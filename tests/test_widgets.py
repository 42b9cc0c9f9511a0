"""The Python side of painting: masks from strokes, what travels, and what fills them; no browser needed.

These tests pass under ipywidgets 7.7.1 with anywidget 0.9.21 (Colab) and under ipywidgets 8.
"""

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.draw import disk, polygon2mask

pytest.importorskip("anywidget", reason="needs the extra course")

from lama_minimal import widgets
from lama_minimal.config import UserError
from lama_minimal.inference import read_mask
from lama_minimal.viz import MASK_COLOUR
from lama_minimal.widgets import LiveInpainter, MaskPainter, mask_stroke, rasterise

SIZE = 90, 120
BOX = {"tool": "box", "points": [[10, 20], [40, 50]]}
CLEAR, INVERT = {"tool": "clear"}, {"tool": "invert"}


def brush(*points: tuple[float, float], size: float = 20, tool: str = "brush") -> dict:
    return {"tool": tool, "size": size, "points": [list(point) for point in points]}


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def boxes() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[20:50, 10:40] = True
    return mask


def random_strokes(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        points = rng.uniform(-30, 150, (rng.integers(1, 6), 2)).round(1).tolist()
        size = float(rng.uniform(1, 60))
        box = {"tool": "box", "points": rng.uniform(-10, 130, (2, 2)).round(1).tolist()}
        choices = [brush(*points, size=size), brush(*points, size=size, tool="eraser"), box, INVERT, CLEAR]
        made.append(dict(choices[rng.choice(5, p=[0.5, 0.2, 0.2, 0.07, 0.03])]))
    return made


def send(painter: MaskPainter, **content: object) -> None:
    """What a browser's message does: through ipywidgets, as it comes off the wire."""
    buffers = content.pop("buffers", [])
    message = dict(content=dict(data=dict(method="custom", content=json.loads(json.dumps(content)))), buffers=buffers)
    painter._handle_msg(message)


def append(painter: MaskPainter, stroke: dict, **changes: object) -> None:
    place = dict(epoch=painter._epoch, at=len(painter.strokes), serial=1)
    send(painter, op="append", stroke=stroke, **(place | changes))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, list]]:
    """What all widgets send to the browser."""
    messages = []
    monkeypatch.setattr(
        MaskPainter, "_send", lambda self, message, buffers=None: messages.append((message, buffers or []))
    )
    return messages


# ---------------------------------------------------------------------------------------------------------- strokes


def test_a_dot_is_a_disc():
    expected = np.zeros(SIZE, bool)
    expected[disk((39.5, 59.5), 25, shape=SIZE)] = True  # skimage's centre is in pixel centres
    np.testing.assert_array_equal(rasterise([brush((60, 40), size=50)], SIZE), expected)


@pytest.mark.parametrize("seed", range(40))
def test_a_stroke_covers_what_is_near_its_line(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-20, 130, (rng.integers(1, 6), 2)).round(1)
    if seed % 3 == 0:
        points[:, seed % 2] = points[0, seed % 2]  # horizontal and vertical lines
    size = float(rng.uniform(0.5, 70))
    x, y = np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5)
    nearest = np.full(SIZE, np.inf)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[-1]], strict=True):
        squared = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
        share = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / squared, 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)))
    clear = np.abs(nearest - size / 2) > 1e-9  # on the very border rounding decides
    mask = rasterise([brush(*points.tolist(), size=size)], SIZE)
    np.testing.assert_array_equal(mask[clear], nearest[clear] <= size / 2)


def test_a_box_has_the_pixels_whose_centres_it_holds():
    np.testing.assert_array_equal(rasterise([BOX], SIZE), boxes())
    turned = {"tool": "box", "points": [[40.4, 20.4], [9.6, 50.4]]}
    np.testing.assert_array_equal(rasterise([turned], SIZE), boxes())
    corners = [[10, 20], [10, 50], [40, 50], [40, 20]]
    inside = polygon2mask(SIZE, np.array([(y - 0.5, x - 0.5) for x, y in corners]))
    assert (inside & ~rasterise([BOX], SIZE)).sum() == 0


def test_strokes_follow_one_another():
    expected = ~boxes()
    hole = rasterise([brush((60, 40))], SIZE)
    assert (rasterise([BOX, INVERT], SIZE) == expected).all()
    assert (rasterise([BOX, INVERT, brush((60, 40), tool="eraser")], SIZE) == expected & ~hole).all()
    assert not rasterise([BOX, INVERT, CLEAR], SIZE).any()
    assert (rasterise([BOX, CLEAR, brush((60, 40))], SIZE) == hole).all()
    assert not rasterise([], SIZE).any()


@pytest.mark.parametrize("seed", range(4))
def test_any_mask_is_a_stroke_that_json_can_hold(seed):
    mask = np.random.default_rng(seed).random(SIZE) < seed / 3
    stroke = json.loads(json.dumps(mask_stroke(mask)))
    np.testing.assert_array_equal(rasterise([BOX, stroke], SIZE), mask)
    assert len(json.dumps(mask_stroke(boxes()))) < 400


@pytest.mark.parametrize(
    "stroke",
    [
        None,
        "brush",
        {"tool": "spray"},
        {"tool": "brush", "points": [[1, 2]]},
        {"tool": "brush", "size": 0, "points": [[1, 2]]},
        {"tool": "brush", "size": float("nan"), "points": [[1, 2]]},
        {"tool": "brush", "size": 3, "points": []},
        {"tool": "brush", "size": 3, "points": [[1, 2], [3]]},
        {"tool": "brush", "size": "big", "points": [[1, 2]]},
        {"tool": "eraser", "size": 3, "points": [[1, float("inf")]]},
        {"tool": "box", "points": [[1, 2]]},
        {"tool": "mask", "runs": [5, 5]},
        {"tool": "mask", "runs": [-1, SIZE[0] * SIZE[1] + 1]},
        {"tool": "mask"},
    ],
)
def test_what_is_no_stroke_is_refused_in_one_line(stroke):
    with pytest.raises(UserError) as refused:
        rasterise([BOX, stroke], SIZE)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        MaskPainter(picture(), strokes=[stroke])
    painter = MaskPainter(picture(), strokes=[BOX])
    with pytest.raises(UserError):
        painter.strokes = [BOX, stroke]
    assert painter.strokes == [BOX]


def test_growing_and_shrinking_lists_give_what_a_fresh_start_gives():
    strokes, rng = random_strokes(80), np.random.default_rng(1)
    replay = widgets._Replay(SIZE)
    for count in [*range(81), 80, 79, 63, 64, 3, 40, 0, *rng.integers(0, 81, 20)]:
        np.testing.assert_array_equal(replay.mask(strokes[:count]), rasterise(strokes[:count], SIZE))
    branched = strokes[:50] + random_strokes(30, seed=5)
    np.testing.assert_array_equal(replay.mask(branched), rasterise(branched, SIZE))


def test_the_hundredth_stroke_paints_one_stroke(monkeypatch):
    painted, apply = [], widgets._apply

    def count(mask: np.ndarray, stroke: dict) -> None:
        painted.append(stroke)
        apply(mask, stroke)

    monkeypatch.setattr(widgets, "_apply", count)
    painter = MaskPainter(picture())
    for stroke in random_strokes(100):
        append(painter, stroke)
        painted.clear()
        painter.mask  # noqa: B018
        assert len(painted) == 1
    send(painter, op="undo", epoch=painter._epoch, at=100, serial=1)
    painted.clear()
    painter.mask  # noqa: B018
    assert len(painted) < widgets.CHECKPOINT


# ---------------------------------------------------------------------------------------------------------- painter


def test_a_mask_needs_nobody_who_paints(tmp_path):
    assert not MaskPainter(picture()).mask.any()
    np.testing.assert_array_equal(MaskPainter(picture(), strokes=[BOX]).mask, boxes())
    np.testing.assert_array_equal(MaskPainter(picture(), boxes()).mask, boxes())
    painter = MaskPainter(picture(), boxes(), strokes=[INVERT])
    np.testing.assert_array_equal(painter.mask, ~boxes())
    painter.save_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE), ~boxes())
    painter.strokes = []
    painter.mask = tmp_path / "mask.png"
    np.testing.assert_array_equal(painter.mask, ~boxes())
    with pytest.raises(UserError, match="give a mask of the image's size"):
        painter.mask = np.zeros((4, 4), bool)


def test_the_mask_handed_out_is_a_copy():
    painter = MaskPainter(picture(), boxes())
    painter.mask[:] = False
    np.testing.assert_array_equal(painter.mask, boxes())


def test_a_browser_appends_and_takes_back():
    painter, seen = MaskPainter(picture()), []
    painter.observe(lambda change: seen.append(len(change["new"])), "strokes")
    append(painter, BOX)
    append(painter, INVERT)
    np.testing.assert_array_equal(painter.mask, ~boxes())
    send(painter, op="undo", epoch=painter._epoch, at=2, serial=3)
    np.testing.assert_array_equal(painter.mask, boxes())
    assert painter.strokes == [BOX] and seen == [1, 2, 1]


def test_only_the_new_stroke_travels(sent):
    painter = MaskPainter(picture(), strokes=random_strokes(50))
    sent.clear()
    append(painter, BOX)
    assert sent == []  # not even an echo
    state = painter.get_state()  # what a page that is loaded again asks for
    assert len(state["_snapshot"]["strokes"]) == 51 and state["_snapshot"]["strokes"][-1] == BOX


def test_what_python_sets_wins_over_strokes_that_did_not_know_of_it(sent):
    painter = MaskPainter(picture())
    old = painter._epoch
    painter.strokes = [BOX]
    assert painter._epoch != old
    (message,) = [message for message, _ in sent if "_snapshot" in message.get("state", {})]
    assert message["state"]["_snapshot"] == {"epoch": painter._epoch, "strokes": [BOX]}
    append(painter, INVERT, epoch=old)
    assert painter.strokes == [BOX]


def test_of_two_browsers_that_paint_at_once_the_first_wins_and_both_learn_of_it(sent):
    painter = MaskPainter(picture())
    epoch = painter._epoch
    append(painter, BOX, at=0)
    sent.clear()
    append(painter, CLEAR, at=0, epoch=epoch)
    assert painter.strokes == [BOX] and painter._epoch != epoch
    assert sent[-1][0]["state"]["_snapshot"]["strokes"] == [BOX]


def test_a_mask_file_is_opened_and_a_bad_one_named(sent):
    painter, file = MaskPainter(picture()), io.BytesIO()
    Image.fromarray(boxes()).save(file, "PNG")
    send(painter, op="import", buffers=[memoryview(file.getvalue())])
    np.testing.assert_array_equal(painter.mask, boxes())
    small = io.BytesIO()
    Image.new("L", (7, 5)).save(small, "PNG")
    for content in (b"", b"no picture", small.getvalue(), file.getvalue()[:60]):
        sent.clear()
        send(painter, op="import", buffers=[content])
        ((message, _),) = sent
        assert message["content"]["op"] == "error" and "\n" not in message["content"]["text"]
    np.testing.assert_array_equal(painter.mask, boxes())


def test_the_mask_is_downloaded_as_png(sent):
    painter = MaskPainter(picture(), boxes())
    sent.clear()
    send(painter, op="download", what="mask")
    ((message, (content,)),) = sent
    assert message["content"] == {"op": "download", "name": "mask.png"}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))) > 0, boxes())


def test_the_photograph_travels_once_bounded_and_small_ones_exact(monkeypatch):
    state = MaskPainter(picture()).get_state()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(state["_photo"]))), picture())
    monkeypatch.setattr(widgets, "PREVIEW_SIDE", 64)
    painter = MaskPainter(picture(), strokes=[BOX])
    assert Image.open(io.BytesIO(painter._photo)).size == (64, 48)
    assert painter._settings["width"] == 120 and painter.mask.shape == SIZE


def test_without_a_browser_a_picture_stands_in_its_place():
    from IPython.core.formatters import DisplayFormatter

    painter = MaskPainter(picture(), boxes())
    formatter = DisplayFormatter()
    formatter.ipython_display_formatter.enabled = True
    bundle, about = formatter.format(painter)
    share = f"120 × 90 pixels, {boxes().mean():.1%}"
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert share in bundle["text/plain"] and share in about["image/png"]["alt"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))).astype(float)
    np.testing.assert_array_equal(shown[~boxes()], picture()[~boxes()])
    np.testing.assert_allclose(shown[boxes()], 0.4 * picture()[boxes()] + 0.6 * np.array(MASK_COLOUR), atol=0.51)
    big = MaskPainter(np.zeros((900, 1800, 3), np.uint8))._repr_mimebundle_()[0]
    assert Image.open(io.BytesIO(base64.b64decode(big["image/jpeg"]))).size == (800, 400)


def test_the_front_end_is_shipped_and_fetches_nothing():
    source = (Path(widgets.__file__).parent / "static/painter.js").read_text()
    style = (Path(widgets.__file__).parent / "static/painter.css").read_text()
    assert not re.search(r"https?://|^\s*import\b|\bimport\(|\bfetch\(|XMLHttp|\burl\(", source + style, re.MULTILINE)
    assert str(MaskPainter(picture())._esm) == source


# ----------------------------------------------------------------------------------------------------------- filling


class Fill:
    """Stands for an Inpainter: fills with one grey, in steps that can be held back."""

    def __init__(self) -> None:
        self.go, self.masks, self.finished = threading.Event(), [], 0
        self.go.set()

    def __call__(self, image, mask, *, strategy, progress):
        assert strategy == "crop"
        self.masks.append(mask)
        for step in range(3):
            self.go.wait(10)
            progress(step + 1, 3)
        self.finished += 1
        filled = image.copy()
        filled[..., :3][mask] = 200
        return filled


def settle(live: LiveInpainter) -> dict:
    """Wait until the browser would have been told; what it was told."""
    for _ in range(500):
        if live._fill["state"] != "busy":
            return live._fill
        time.sleep(0.01)
    raise AssertionError("still busy")


def test_what_is_painted_is_filled(tmp_path):
    live = LiveInpainter(picture(), Fill())
    assert settle(live)["state"] == "empty"
    append(live, BOX, serial=7)
    told = settle(live)
    assert (told["state"], told["serial"], told["box"]) == ("done", 7, [10, 20, 30, 30]) and told["seconds"] >= 0
    expected = np.where(boxes()[..., None], 200, picture())
    np.testing.assert_array_equal(live.result, expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(told["picture"]))), expected[20:50, 10:40])
    live.save(tmp_path / "filled.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "filled.png")), expected)
    static = live._static_picture()
    assert static.shape[1] > 2 * SIZE[1]  # before and after, side by side


def test_transparency_stays():
    image = np.dstack([picture(), np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8)])
    live = LiveInpainter(image, Fill(), boxes())
    np.testing.assert_array_equal(live.result[..., 3], image[..., 3])


def test_the_newest_mask_wins_and_older_ones_are_given_up():
    fill = Fill()
    live = LiveInpainter(picture(), fill)
    settle(live)
    fill.go.clear()
    before = fill.finished
    for stroke in (BOX, INVERT, INVERT, brush((60, 40))):
        append(live, stroke)
        time.sleep(0.05)
    assert live._fill["state"] == "busy"
    fill.go.set()
    result = live.result
    settle(live)
    assert fill.finished == before + 1
    np.testing.assert_array_equal(result, np.where(live.mask[..., None], 200, picture()))


@pytest.mark.parametrize("error", [UserError("too little memory: use strategy crop"), RuntimeError("one\ntwo")])
def test_an_error_is_one_line_and_the_next_stroke_works(error):
    fill = Fill()
    live = LiveInpainter(picture(), fill)
    settle(live)

    def fail(*_, **__):
        raise error

    live._inpainter = fail
    append(live, BOX)
    told = settle(live)
    assert told["state"] == "error" and "\n" not in told["error"] and str(error).splitlines()[0] in told["error"]
    with pytest.raises(type(error)):
        live.result  # noqa: B018
    live._inpainter = fill
    append(live, CLEAR)
    append(live, BOX)
    assert settle(live)["state"] == "done"


# -------------------------------------------------------------------------------------------------------------- Colab


@pytest.mark.skipif("WIDGETS_UNDER_COLAB" in os.environ, reason="runs these tests")
def test_all_this_holds_with_the_versions_of_colab(tmp_path):
    old = ["ipywidgets==7.7.1", "anywidget==0.9.21", "ipython-genutils==0.2.0"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), *old]
    if subprocess.run(pip, capture_output=True, timeout=120).returncode:
        if os.environ.get("CI"):
            pytest.fail("Colab's versions of ipywidgets and anywidget could not be installed")
        pytest.skip("no network: not tested with Colab's versions of ipywidgets and anywidget")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"WIDGETS_UNDER_COLAB": "yes", "PYTHONPATH": path}
    version = "import ipywidgets, anywidget; print(ipywidgets.__version__, anywidget.__version__)"
    shown = subprocess.run([sys.executable, "-c", version], env=environment, capture_output=True, text=True)
    assert shown.stdout.split() == ["7.7.1", "0.9.21"], shown.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-3000:]
