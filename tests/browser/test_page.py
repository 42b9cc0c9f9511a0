"""A visitor in a real browser: chooses a picture, paints, fills, compares, downloads; with and without a network.

The page is started with a password, so that every visit goes through the login as well.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
sys.path.insert(0, str(Path(__file__).parent.parent))
import httpx
from page_server import Server, saved, start, stop

pytestmark = pytest.mark.xdist_group("page in a browser")  # one server for all

WIDTH, HEIGHT = 1800, 1350
"""Larger than what the browser paints on."""

NEVER_AT_REST = "the editor is never at rest"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("page")
    passwords = home / "passwords"
    passwords.write_text("ann:secret\n")
    models = [saved(home / name, width=4) for name in ("first", "second")]
    running = start(home / "home", models[0], str(models[1]), "--password-file", str(passwords))
    yield running
    assert running.process.poll() is None, running.log.read_text()[-3000:]
    stop(running)
    assert not list((running.home / "tmp").iterdir())


class Visitor:
    """One browser window, and what it asked for."""

    def __init__(self, browser, server: Server, **options: object) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(100_000)
        self.asked, self.complaints, self.moved = [], [], time.monotonic()
        self.page.on("request", self.note)
        self.page.on("requestfinished", self.note)
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.goto(server.address)
        self.page.get_by_label("username").fill("ann")
        self.page.get_by_label("password").fill("secret")
        self.page.get_by_role("button", name="Login").click()
        self.page.locator(".lama-examples").wait_for()

    def note(self, request: object) -> None:
        self.asked.append(request.url)
        self.moved = time.monotonic()

    def settle(self) -> None:
        """Until nothing moves and no progress covers the editor, as a person would wait: Gradio's editor loads its own
        painting back after each upload, and a stroke meanwhile is lost."""
        patience = time.monotonic() + 100
        while time.monotonic() < self.moved + 1 or self.page.locator(".progress-text").count():
            assert time.monotonic() < patience, f"{NEVER_AT_REST}; {self.asked[-5:]}, {self.complaints[-5:]}"
            self.page.wait_for_timeout(200)

    def choose(self, picture: Path) -> None:
        self.page.locator("input[type=file]").first.set_input_files(picture)
        self.page.get_by_text("then press Fill").wait_for()
        self.wait_for_editor()

    def wait_for_editor(self) -> None:
        """Until the editor has fitted the picture, which is larger than itself, into its frame."""
        self.page.get_by_text(re.compile(r"^\d\d%$")).wait_for()
        self.settle()

    def paint(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A stroke, between shares of the frame."""
        self.settle()
        box = self.page.locator("canvas").first.bounding_box()
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        self.page.mouse.move(*points[1], steps=8)
        self.page.mouse.up()
        self.page.locator("button[aria-label=Undo]:enabled").wait_for()
        self.settle()

    def fill(self) -> None:
        self.page.get_by_role("button", name="Fill", exact=True).click()

    def download(self, folder: Path) -> Path:
        self.page.get_by_text("Filled in").wait_for()
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name="Download").or_(self.page.get_by_role("link", name="Download")).click()
        target = folder / waiting.value.suggested_filename
        waiting.value.save_as(target)
        return target


@pytest.fixture
def visit(browser, server):
    visitors = []

    def go(**options: object) -> Visitor:
        visitors.append(Visitor(browser, server, **options))
        return visitors[-1]

    yield go
    for visitor in visitors:
        visitor.context.close()


def has_namespaces() -> bool:
    """Whether this user can cut a process off from the network."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0


def run_without_a_network(test: str) -> None:
    """This file's test of that name once more, where there is nothing but loopback.

    Once, on a busy machine, the editor (of Gradio 6.31) loaded and uploaded its own painting for 100 s. Why is not
    known; it never came again when it was looked for. That alone has a second try.
    """
    alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"{__file__}::{test}"]
    command += ["-o", "faulthandler_timeout=300"]  # says where it hangs
    inside = os.environ | {"CI": "1", "NOTHING_BUT_LOOPBACK": "1"}
    for _ in range(2):
        try:
            done = subprocess.run([*alone, *command], capture_output=True, text=True, env=inside, timeout=600)
        except subprocess.TimeoutExpired as late:
            said = [(output or b"").decode()[-3000:] for output in (late.stdout, late.stderr)]
            pytest.fail("\n".join([f"not done after {late.timeout} seconds:", *said]))
        if NEVER_AT_REST not in done.stdout:
            break
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "1 passed" in done.stdout


def test_remove_something(request, tmp_path):
    """The file that comes back has the upload's size and orientation, and its known pixels; no network is needed."""
    if has_namespaces() and "NOTHING_BUT_LOOPBACK" not in os.environ:
        request.getfixturevalue("browser")  # installed, if need be, where there is a network
        run_without_a_network("test_remove_something")
        return
    visit = request.getfixturevalue("visit")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, (x + y) % 64], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    upright = pixels[::-1, ::-1]

    visitor = visit(viewport=dict(width=1400, height=900))
    visitor.choose(tmp_path / "photo.png")
    visitor.fill()
    visitor.page.get_by_text("The mask is empty").wait_for()
    visitor.paint((0.45, 0.5), (0.6, 0.5))
    visitor.fill()
    slider = visitor.page.get_by_label("Before and after").or_(visitor.page.locator(".slider-wrap")).first
    slider.wait_for()
    file = visitor.download(tmp_path)

    assert file.name == "photo-filled.png"
    after = np.asarray(Image.open(file))
    assert after.shape == (HEIGHT, WIDTH, 3)
    changed = (after != upright).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    # One stroke about the middle: all of it, and nothing but it.
    assert HEIGHT * 0.4 < rows[0] < HEIGHT / 2 < rows[-1] < HEIGHT * 0.6
    assert WIDTH * 0.38 < columns[0] < WIDTH / 2 < columns[-1] < WIDTH * 0.68
    assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.6
    others = [url for url in visitor.asked if "//127.0.0.1:" not in url and not url.startswith(("data:", "blob:"))]
    assert not others
    assert not [text for text in visitor.complaints if "Content Security" in text or "Refused" in text]


def test_examples_settings_and_batch(visit, tmp_path):
    visitor = visit(viewport=dict(width=390, height=844), color_scheme="dark", has_touch=True)
    page = visitor.page
    page.locator(".lama-examples button").first.click()
    page.get_by_text("Change what is painted over").wait_for()
    visitor.wait_for_editor()
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="second").click()
    page.get_by_label("crops").first.check()
    visitor.fill()
    assert visitor.download(tmp_path).name == "rocket-filled.png"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    picture, mask = tmp_path / "a.png", tmp_path / "a_mask.png"
    pixels, hole = np.full((40, 50, 3), 90, np.uint8), np.zeros((40, 50), bool)
    hole[10:20, 10:20] = True
    Image.fromarray(pixels).save(picture)
    Image.fromarray(hole).save(mask)
    page.get_by_role("tab", name="Many").click()
    page.locator("input[type=file][multiple]").set_input_files([picture, mask])
    page.get_by_role("button", name="Fill all").wait_for()
    page.locator(".file-preview").wait_for()  # both have arrived
    page.get_by_role("button", name="Fill all").click()
    page.get_by_text("1 written").wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="filled.zip").or_(page.locator("a[download]")).last.click()
    waiting.value.save_as(tmp_path / "filled.zip")
    with zipfile.ZipFile(tmp_path / "filled.zip") as made, made.open("a_mask.png") as file:
        np.testing.assert_array_equal(np.asarray(Image.open(file))[~hole], pixels[~hole])


def test_a_password_is_asked_for(server):
    for path in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=a", "gradio_api/file=/etc/passwd"):
        assert httpx.get(f"{server.address}/{path}").status_code == 401, path
    assert httpx.post(f"{server.address}/gradio_api/upload", files={"files": ("a.png", b"a")}).status_code == 401
    body = dict(data=[], fn_index=0, session_hash="a")
    assert httpx.post(f"{server.address}/gradio_api/queue/join", content=json.dumps(body)).status_code == 401
    wrong = httpx.post(f"{server.address}/login", data=dict(username="ann", password="guess"))
    assert wrong.status_code == 400
    right = httpx.post(f"{server.address}/login", data=dict(username="ann", password="secret"))
    assert right.status_code == 200
