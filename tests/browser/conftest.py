"""A real JupyterLab in a real Chromium.

Without Chromium on the PATH, Playwright's own is taken, or one is installed: Playwright's, or, for root, the system's
package. Where none of this works, or Playwright is missing, the tests are skipped on a user's machine, and fail where
``CI`` is set.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, WebSocket

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
TOKEN = "loopback-only"
WITHOUT_NEWS = {"checkForUpdates": False, "doNotDisturbMode": True, "fetchNews": "false"}


def _on_path() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def _quietly(*command: str) -> bool:
    """Whether a command succeeds within ten minutes."""
    try:
        return subprocess.run(command, capture_output=True, timeout=600).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _find_chromium(own: str) -> str | None:
    """The path of a Chromium, installed if need be; None if there is none to be had."""
    with _one_at_a_time():
        if found := _on_path():
            return found
        if Path(own).exists() or _quietly(sys.executable, "-m", "playwright", "install", "chromium"):
            return own
        if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
            _quietly("apt-get", "update")
            _quietly("apt-get", "install", "--yes", "--no-install-recommends", "chromium")
        return _on_path()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """One worker installs, the others wait: apt-get gives up where another one is at work."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (Path(tempfile.gettempdir()) / f"lama-minimal-chromium-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _give_up(reason: str) -> None:
    """Fail in CI; skip elsewhere, loudly."""
    message = f"NO BROWSER, NOTHING IN tests/browser WAS TESTED: {reason}"
    if os.environ.get("CI"):
        pytest.fail(message)
    warnings.warn(message, stacklevel=1)
    pytest.skip(message)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _give_up("Playwright is not installed; pip install -e '.[dev]'")
    with sync_playwright() as playwright:
        path = _find_chromium(playwright.chromium.executable_path)
        if path is None:
            _give_up("Chromium was not found and could not be installed")
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a JupyterLab that knows nothing of the user's own settings."""
    folder = tmp_path_factory.mktemp("jupyter")
    settings = folder / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(WITHOUT_NEWS))
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "RUNTIME", "DATA")}
    environment = os.environ | places | {"IPYTHONDIR": str(folder / "ipython"), "OMP_NUM_THREADS": "1"}
    (folder / "work").mkdir()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={folder / 'work'}",
        f"--IdentityProvider.token={TOKEN}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        yield f"http://127.0.0.1:{_port(server, folder)}", folder / "work"
    finally:
        server.terminate()  # ends its kernels as well
        server.wait(timeout=30)


def _port(server: subprocess.Popen, folder: Path) -> int:
    """The port that the server chose; it writes it down once it listens."""
    for _ in range(600):
        for file in (folder / "runtime").glob("jpserver-*.json"):
            try:
                return json.loads(file.read_text())["port"]
            except ValueError:
                pass  # half written
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start: {(folder / 'log').read_text()[-2000:]}")


class Notebook:
    """One notebook, open in a page, its cells run."""

    def __init__(self, page: "Page", folder: Path, traffic: list[int]) -> None:
        self.page, self.folder, self.traffic = page, folder, traffic
        self.painter = page.locator(".lama-painter")

    def run_cells(self, last: int) -> None:
        """Run the notebook's own cells that have not been run yet, up to the one of this index, and go to it."""
        self.page.evaluate(
            """async (last) => {
                const { commands, shell } = window.jupyterapp;
                const { content } = shell.currentWidget;
                for (let i = 0; i <= last; i++) {
                    if (content.widgets[i].model.type !== "code" || content.widgets[i].model.executionCount) continue;
                    content.activeCellIndex = i;
                    content.deselectAll();
                    await commands.execute("notebook:run-cell");
                }
            }""",
            last,
        )

    def run(self, code: str) -> None:
        """Execute code in the kernel, after all that the page has sent so far, and wait until it is done."""
        status = self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const { content } = await kernel.requestExecute({ code, store_history: false }).done;
                return content.status === "ok" ? "" : `${content.ename}: ${content.evalue}`;
            }""",
            code,
        )
        assert not status, status

    def start(self, code: str) -> None:
        """Execute code in the kernel and do not wait."""
        self.page.evaluate(
            """(code) => {
                window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code });
            }""",
            code,
        )

    def mask(self) -> np.ndarray:
        """The mask as the kernel has it."""
        self.run("import numpy; numpy.save('mask.npy', painter.mask)")
        return np.load(self.folder / "mask.npy")

    def shown(self) -> np.ndarray:
        """The mask as the browser has painted it, at the resolution it has there."""
        width, height, content = self.painter.locator("canvas").evaluate(
            """(canvas) => {
                const { width, height } = canvas;
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
                const bits = new Uint8Array(Math.ceil((width * height) / 8));
                for (let i = 0; i < width * height; i++) if (data[4 * i + 3] > 127) bits[i >> 3] |= 128 >> (i & 7);
                let text = "";
                for (let i = 0; i < bits.length; i += 8192) text += String.fromCharCode(...bits.subarray(i, i + 8192));
                return [width, height, btoa(text)];
            }"""
        )
        bits = np.frombuffer(base64.b64decode(content), np.uint8)
        return np.unpackbits(bits, count=width * height).reshape(height, width).astype(bool)


@pytest.fixture
def notebook(browser, jupyter, request: pytest.FixtureRequest):
    """A function: source of a notebook's only cell → the notebook, open and run, with the painter in sight.

    Of a notebook's file, the cells up to its first painter are run.
    """
    address, folder = jupyter
    contexts = []

    def open_notebook(source: str | Path, width: int = 1400, height: int = 900, **options: object) -> Notebook:
        name = f"notebook-{len(list(folder.glob('*.ipynb')))}.ipynb"
        if isinstance(source, Path):
            content = json.loads(source.read_text())
            painter = next(
                i for i, c in enumerate(content["cells"]) if "painter = MaskPainter(" in "".join(c["source"])
            )
        else:
            cell = dict(cell_type="code", id="cell", source=source, metadata={}, outputs=[], execution_count=None)
            kernel = dict(name="python3", display_name="Python 3", language="python")
            content = dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
            painter = 0
        (folder / name).write_text(json.dumps(content))
        context = browser.new_context(viewport=dict(width=width, height=height), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(40_000)
        traffic = []
        page.on("websocket", lambda socket: _listen(socket, traffic))
        page.goto(f"{address}/doc/tree/{name}?reset&token={TOKEN}")
        page.wait_for_function(
            """() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === "idle" """
        )
        opened = Notebook(page, folder, traffic)
        opened.run_cells(painter)
        page.locator(".lama-painter[data-ready]").wait_for()
        return opened

    yield open_notebook
    for context in contexts:
        context.close()


def _listen(socket: "WebSocket", traffic: list[int]) -> None:
    """Collect the size of every frame, both ways, bytes."""
    for direction in ("framesent", "framereceived"):
        socket.on(direction, lambda frame: traffic.append(len(frame)))
