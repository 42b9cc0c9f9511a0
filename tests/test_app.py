"""The web page: what it does for programs, and what it does with whatever else the net sends.

One server, started as a user starts it, meets everything in turn; at the end nothing of it may be left.
"""

import io
import json
import os
import re
import runpy
import signal
import socket
import struct
import time
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image, ImageOps

gradio = pytest.importorskip("gradio")
import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from page_server import Server, saved, start, stop  # noqa: E402

from lama_minimal import app  # noqa: E402
from lama_minimal.cli import main  # noqa: E402
from lama_minimal.config import UserError  # noqa: E402

ROOT = Path(__file__).parent.parent
MIB = 2**20

pytestmark = pytest.mark.xdist_group("page")  # one server for all


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "tiny", width=8)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[Server]:
    """The page; when all tests are done it must leave without a trace, and without having complained."""
    running = start(tmp_path_factory.mktemp("app") / "home", model)
    yield running
    assert running.process.poll() is None, running.log.read_text()[-3000:]
    stop(running)
    assert running.process.returncode == 0
    left = [path for path in running.home.rglob("*") if path.is_file() and ".cache" not in path.parts]
    assert not left
    assert not list((running.home / "tmp").iterdir())
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server.address, verbose=False)


@pytest.fixture
def task(tmp_path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Files of a picture and a mask, and their pixels."""
    rng = np.random.default_rng(0)
    pixels, hole = rng.integers(0, 256, (60, 80, 3), np.uint8), np.zeros((60, 80), bool)
    hole[20:40, 30:60] = True
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png", pixels, hole


def ask(client: Client, image: Path, mask: Path, **options: object) -> np.ndarray:
    found = client.predict(image=handle_file(image), mask=handle_file(mask), api_name="/inpaint", **options)
    return np.asarray(Image.open(found))


def refused(client: Client, image: Path, mask: Path, **options: object) -> str:
    """What the page says to a task that it does not take."""
    with pytest.raises(AppError) as error:
        ask(client, image, mask, **options)
    assert "/" not in str(error.value), "tells where files lie on the server"
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------ programs


def test_the_documented_example_works(server, task, monkeypatch, capsys):
    image, _, pixels, hole = task
    Image.fromarray(pixels).save(image.with_suffix(".jpg"))
    before = np.asarray(Image.open(image.with_suffix(".jpg")))
    monkeypatch.chdir(image.parent)
    exec(app.API_EXAMPLE.replace("http://127.0.0.1:7860", server.address), {})
    filled = Path(capsys.readouterr().out.strip().splitlines()[-1])
    after = np.asarray(Image.open(filled))
    assert filled.name == "photo-filled.png"
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).any()


def test_there_is_one_endpoint(client):
    endpoints = client.view_api(return_format="dict")
    assert list(endpoints["named_endpoints"]) == ["/inpaint"] and not endpoints["unnamed_endpoints"]
    names = [parameter["parameter_name"] for parameter in endpoints["named_endpoints"]["/inpaint"]["parameters"]]
    assert names == ["image", "mask", "model", "strategy", "refine"]


@pytest.mark.parametrize("kind", ["rotated", "transparent", "palette", "16 bit", "grey"])
def test_pictures_of_every_kind_come_back_with_their_known_pixels(client, task, tmp_path, kind):
    image, mask, pixels, hole = task
    picture, options = Image.fromarray(pixels), {}
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
        Image.fromarray(hole).rotate(-90, expand=True).save(mask)
    elif kind == "transparent":
        picture.putalpha(Image.fromarray(np.arange(60 * 80, dtype=np.uint8).reshape(60, 80)))
    elif kind == "palette":
        picture = picture.quantize(16)
    elif kind == "16 bit":
        picture = Image.fromarray(np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 13)
    elif kind == "grey":
        picture = picture.convert("L")
    picture.save(image, **options)
    upright = ImageOps.exif_transpose(Image.open(image))
    known = ~np.asarray(Image.open(mask)).astype(bool)
    after = ask(client, image, mask)
    if kind == "16 bit":
        expected = np.repeat(np.rint(np.asarray(upright) / 257.0).astype(np.uint8)[..., None], 3, axis=2)
    else:
        expected = np.asarray(upright.convert("RGBA" if kind == "transparent" else "RGB"))
    np.testing.assert_array_equal(after[known], expected[known])


def test_every_mistake_is_one_clear_line(client, task, tmp_path):
    image, mask, *_ = task
    small, empty, nothing, text = (tmp_path / name for name in ("small.png", "empty.png", "nothing.png", "text.png"))
    Image.new("L", (8, 9), 255).save(small)
    Image.new("L", (80, 60), 0).save(empty)
    nothing.write_bytes(b"")
    text.write_text("no picture")
    assert "8 x 9" in refused(client, image, small) and "80 x 60" in refused(client, image, small)
    assert "paint over what should disappear" in refused(client, image, empty)
    for file in (nothing, text):
        assert "not a picture" in refused(client, file, mask) and file.name in refused(client, image, file)
    assert "sideways" in refused(client, image, mask, strategy="sideways")
    assert "third" in refused(client, image, mask, model="third")
    with zipfile.ZipFile(tmp_path / "zip.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    (tmp_path / "zip.zip").rename(tmp_path / "zip.png")
    assert "not a picture" in refused(client, tmp_path / "zip.png", mask)
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "not a picture" in refused(client, tmp_path / "script.png", mask)


# ------------------------------------------------------------------------------------------------------------- misuse


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(path: Path, side: int) -> Path:
    """A black PNG, small as a file and large when decoded."""
    rows = zlib.compressobj(9)
    content = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(side)) + rows.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    assert path.stat().st_size < MIB
    return path


@pytest.mark.parametrize("side", [30_000, 7_100])  # the second is one that Pillow itself would open
def test_a_decompression_bomb_is_refused_by_its_header(server, client, task, tmp_path, side):
    large = bomb(tmp_path / "bomb.png", side)
    before, started = server.memory(), time.monotonic()
    for image, mask in ((large, task[1]), (task[0], large)):
        assert "more than 50 megapixels" in refused(client, image, mask)
    assert server.memory() - before < 30 * MIB
    assert time.monotonic() - started < 20


def upload(server: Server, name: str, content: object, **options: object) -> httpx.Response:
    return httpx.post(f"{server.address}/gradio_api/upload", files={"files": (name, content)}, timeout=60, **options)


def test_a_large_upload_is_refused_and_leaves_nothing(server, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(200 * MIB)
    before, files = server.memory(), server.files()
    with large.open("rb") as file:
        said = None
        try:
            said = upload(server, "large.png", file).status_code
        except httpx.WriteError:  # the server hung up before it had it all
            said = 413
    assert said == 413

    def pieces() -> Iterator[bytes]:  # of which no header says how many there are
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(200):
            yield bytes(MIB)
        yield b"\r\n--x--\r\n"

    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(f"{server.address}/gradio_api/upload", content=pieces(), headers=kind, timeout=60)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass
    assert server.memory() - before < 150 * MIB
    # What was begun lies there for a minute at most; what is swept is tested below.
    assert sum(path.stat().st_size for path in set(server.files()) - set(files)) <= app.MOST_BYTES


def test_a_path_in_a_file_name_leads_nowhere(server, client, task):
    content = task[0].read_bytes()
    for name in (
        "../../../../escape.png",
        "..\\..\\escape.png",
        "/etc/escape.png",
        "a/../../escape.png",
        "..",
        "\x00.png",
    ):
        answer = upload(server, name, content)
        if answer.status_code == 200:
            place = Path(answer.json()[0]).resolve()
            assert place.is_relative_to((server.home / "tmp").resolve()), name
    assert not list(server.home.glob("escape*")) and not list((server.home / "tmp").glob("*escape*"))
    assert not Path("/etc/escape.png").exists()
    for path in ("/etc/passwd", "../../etc/passwd", str(ROOT / "README.md"), "C:/x", "file:///etc/passwd"):
        assert httpx.get(f"{server.address}/gradio_api/file={path}").status_code in (403, 404), path


def test_the_server_fetches_no_address(server, client):
    """Whatever names an address in a request is refused: by the guard, not only because this one is a local address."""
    asked = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    listener = HTTPServer(("127.0.0.1", 0), Listener)
    Thread(target=listener.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{listener.server_port}/x.png"
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    index = client.endpoints[next(iter(client.endpoints))].fn_index
    body = {"data": [file, file, None, "auto", False], "fn_index": index, "session_hash": "s"}
    escaped = json.dumps(body).replace("http:", "\\u0068ttp:")
    for path in ("queue/join", "run/inpaint", "call/inpaint"):
        for content in (json.dumps(body), escaped):
            answer = httpx.post(f"{server.address}/gradio_api/{path}", content=content)
            assert (answer.status_code, answer.text[:15]) == (400, "upload the file"), path
    for path in (f"file={address}", f"proxy={address}"):
        assert httpx.get(f"{server.address}/gradio_api/{path}").status_code == 404
    listener.shutdown()
    assert not asked


def test_ways_that_the_page_does_not_need_are_closed(server):
    for path in ("monitoring", "gradio_api/deep_link", "docs", "redoc", "gradio_api/runs", "gradio_api/vibe-code/"):
        assert httpx.get(f"{server.address}/{path}").status_code == 404, path
    blob = dict(
        data={"fn_name": "accept_blobs", "component_id": "1", "session_hash": "s", "type": "layer", "index": "9" * 9}
    )
    answer = httpx.post(f"{server.address}/gradio_api/component_server", files={"file": b"x"}, **blob)
    assert answer.status_code == 404
    deep = httpx.post(f"{server.address}/gradio_api/queue/join", content="[" * 500_000)
    assert deep.status_code == 400
    assert httpx.post(f"{server.address}/gradio_api/queue/join", content=b" " * 2 * MIB).status_code == 413


def test_a_page_may_load_from_its_own_server_only(server):
    page = httpx.get(server.address)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?://(?!127\.0\.0\.1)[^"]*"', page.text)


def test_fifty_requests_at_once(server, task):
    """Each is answered rightly or told that too many wait; then the next visitor is served."""
    image, mask, pixels, hole = task
    clients = [Client(server.address, verbose=False) for _ in range(5)]
    before = server.memory()
    jobs = [
        clients[k % 5].submit(image=handle_file(image), mask=handle_file(mask), api_name="/inpaint") for k in range(50)
    ]
    served = 0
    for job in jobs:
        try:
            after = np.asarray(Image.open(job.result(timeout=120)))
        except Exception as error:
            assert "queue is full" in str(error).lower(), repr(error)
            continue
        served += 1
        np.testing.assert_array_equal(after[~hole], pixels[~hole])
    assert served >= app.MOST_WAITING
    np.testing.assert_array_equal(ask(clients[0], image, mask)[~hole], pixels[~hole])
    assert server.memory() - before < 100 * MIB


def test_a_visitor_who_leaves_midway(server, client, task):
    image, mask, pixels, hole = task
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:  # an upload that ends in the middle
        half.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            b'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(5000)
        )
    sent = (
        upload(server, "photo.png", image.read_bytes()).json()[0],
        upload(server, "m.png", mask.read_bytes()).json()[0],
    )
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
    index = client.endpoints[next(iter(client.endpoints))].fn_index
    body = {"data": [*files, None, "auto", False], "fn_index": index, "session_hash": "leaves"}
    assert httpx.post(f"{server.address}/gradio_api/queue/join", json=body).status_code == 200
    with httpx.stream("GET", f"{server.address}/gradio_api/queue/data?session_hash=leaves", timeout=10) as events:
        next(events.iter_raw())  # and is gone
    np.testing.assert_array_equal(ask(client, image, mask)[~hole], pixels[~hole])


def test_what_a_visitor_had_is_removed_when_the_visitor_leaves(server, task):
    visits = next((server.home / "tmp").glob("lama-minimal-app-*")) / "visits"

    def pictures() -> set[str]:  # os.walk passes over folders that vanish meanwhile
        return {f"{folder}/{name}" for folder, _, names in os.walk(visits) for name in names if name.endswith(".png")}

    before = pictures()
    visitor = Client(server.address, verbose=False)
    ask(visitor, *task[:2])
    assert pictures() - before
    with httpx.stream("GET", f"{server.address}/gradio_api/heartbeat/{visitor.session_hash}", timeout=10) as alive:
        next(alive.iter_raw())  # as of a page that is open, and then closed
    for _ in range(100):
        if not pictures() - before:
            return
        time.sleep(0.1)
    pytest.fail("still there")


# -------------------------------------------------------------------------------------------------------------- parts


def test_old_files_are_swept_and_the_page_s_own_are_kept(tmp_path):
    workspace = app.Workspace(tmp_path)
    kept, old, new, begun = (
        workspace.page / "a.jpg", workspace.visit("a") / "old.png", workspace.visit("b") / "new.png", tmp_path / "tmp1",
    )  # fmt: skip
    for path in (kept, old, new, begun):
        path.write_bytes(b"12345")
    for path, age in ((kept, 10_000), (old, 4000), (begun, 100)):
        os.utime(path, (time.time() - age,) * 2)
    assert workspace.stored() == 15
    workspace.sweep(3600)
    assert kept.exists() and new.exists() and not old.exists() and not begun.exists()
    workspace.forget("b")
    assert not new.exists()
    assert workspace.visit("../../x").parent == tmp_path / "visits"


def test_a_full_workspace_takes_no_more(tmp_path, monkeypatch):
    import asyncio

    monkeypatch.setattr(app, "MOST_STORED", 4)
    (tmp_path / "a").write_bytes(b"12345")
    sent, scope = [], dict(type="http", method="POST", path="/gradio_api/upload", headers=[])

    async def send(message: dict) -> None:
        sent.append(message)

    request = app.Guard(None, app.Workspace(tmp_path))(scope, None, send)
    thread = Thread(target=asyncio.run, args=[request])  # Playwright, in other tests, leaves a loop in this thread
    thread.start()
    thread.join()
    assert sent[0]["status"] == 507


def test_what_was_painted_is_scaled_to_the_picture(tmp_path):
    layer = np.zeros((30, 40, 4), np.uint8)
    layer[10:20, 5:15] = 236, 64, 150, 153
    layer[25, 30] = 236, 64, 150, 20  # the softest edge of a brush
    Image.fromarray(layer).save(tmp_path / "layer.png")
    mask = app.painted_mask([tmp_path / "layer.png"], (300, 400))
    expected = np.zeros((300, 400), bool)
    expected[100:200, 50:150] = True
    assert (mask != expected).sum() < 100 and mask.any()  # corners are rounded
    assert not app.painted_mask([], (5, 5)).any()
    (tmp_path / "layer.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match="did not arrive"):
        app.painted_mask([tmp_path / "layer.png"], (300, 400))


def test_what_would_need_too_much_memory_is_shrunk(monkeypatch):
    hole = np.zeros((3000, 3000), bool)
    hole[:40, :40] = True
    assert app.affordable("whole", hole) == "resize"
    assert (app.affordable("auto", hole), app.affordable("crop", hole)) == ("auto", "crop")
    hole[::50] = True  # one group across the picture: its crop is the picture
    assert app.affordable("auto", hole) == "resize"
    assert app.affordable("whole", hole[:1000, :1000]) == "whole"


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_batch_is_filled_and_reported(task, tmp_path, model):
    image, mask, pixels, hole = task
    inside = {
        "a/photo.png": image.read_bytes(),
        "a/photo_mask.png": mask.read_bytes(),
        "a/alone.png": image.read_bytes(),
    }
    inside |= {"../../evil.png": image.read_bytes(), "/evil.png": image.read_bytes(), "a/notes.txt": b"x"}
    archive = make_zip(tmp_path / "batch.zip", inside)
    work, done = tmp_path / "work" / "deep" / "er", []
    work.mkdir(parents=True)
    with app.Models([str(model)]).use() as inpainter:
        fill = app.partial(app.fill_picture, inpainter)
        result, summary = app.fill_batch(fill, [archive], work, progress=lambda *at: done.append(at))
    with zipfile.ZipFile(result) as made:
        assert sorted(made.namelist()) == ["a/photo_mask.png", "report.txt"]
        after = np.asarray(Image.open(io.BytesIO(made.read("a/photo_mask.png"))))
    np.testing.assert_array_equal(after[~hole], pixels[~hole])
    assert "1 written" in summary and "a/alone.png" in summary and str(tmp_path) not in summary
    assert done[-1] == (1, 1)
    assert not [path for path in tmp_path.rglob("evil*") if not path.is_relative_to(work)]


def test_zips_that_swell_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MOST_BYTES", MIB)
    swelling = make_zip(tmp_path / "a.zip", {"a.png": bytes(3 * MIB)})
    with pytest.raises(UserError, match="larger than 2 MB"):
        app.unpack(swelling, tmp_path / "out")
    with pytest.raises(UserError, match="200 pictures"):
        app.unpack(make_zip(tmp_path / "b.zip", {f"{k}.png": b"" for k in range(201)}), tmp_path / "out")
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UserError, match="zip it again"):
        app.unpack(tmp_path / "c.zip", tmp_path / "out")


def test_one_model_is_in_memory_at_a_time(model, tmp_path):
    other = saved(tmp_path / "other", width=4)
    models = app.Models([str(model), str(other)])
    assert models.names == ["tiny", "other"]
    with models.use("other") as inpainter:
        assert inpainter.name == str(other)
    with models.use() as inpainter:
        assert inpainter.name == str(model)
    with pytest.raises(UserError, match="there are tiny, other"), models.use("third"):
        pass
    with pytest.raises(UserError, match="name of its own"):
        app.Models([str(model), str(tmp_path / "tiny")])


def test_examples_have_something_to_remove():
    for name, example in app.EXAMPLES.items():
        image, mask = example.draw()
        assert image.shape[2] == 3 and image.dtype == np.uint8, name
        assert 0.01 < mask.mean() < 0.2, name


def test_passwords_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("LAMA_MINIMAL_PASSWORD", raising=False)
    assert app.read_passwords(None) is None
    monkeypatch.setenv("LAMA_MINIMAL_PASSWORD", "ann:se:cret")
    assert app.read_passwords(None) == [("ann", "se:cret")]
    file = tmp_path / "passwords"
    file.write_text("ann:a\n\nbob:b\n")
    assert app.read_passwords(file) == [("ann", "a"), ("bob", "b")]
    for wrong in ("", "ann", "ann:", ":a"):
        file.write_text(wrong)
        with pytest.raises(UserError, match="NAME:PASSWORD"):
            app.read_passwords(file)
    with pytest.raises(UserError, match="cannot read"):
        app.read_passwords(tmp_path / "none")


def test_mistakes_at_the_start_are_one_line(model, capsys):
    def says(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["app", *arguments])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    before = signal.getsignal(signal.SIGTERM)
    assert "no model" in says("--model", "nowhere/at/all")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "--port" in says("--model", str(model), "--port", str(taken.getsockname()[1]))
    signal.signal(signal.SIGTERM, before)


def test_the_space_imports_and_asks_for_what_the_package_needs():
    space = ROOT / "assets/space"
    assert callable(runpy.run_path(str(space / "app.py"))["serve"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (space / "requirements.txt").read_text().split() == project["dependencies"]
    matter = (space / "README.md").read_text().split("---")[1]  # Gradio itself comes by its version there
    assert re.search(r"^sdk: gradio$", matter, re.M) and re.search(r"^app_file: app\.py$", matter, re.M)
    (least,) = project["optional-dependencies"]["app"]
    version = re.search(r"^sdk_version: ([\d.]+)$", matter, re.M)[1]
    assert [int(part) for part in version.split(".")] >= [int(part) for part in re.findall(r"\d+", least)]
