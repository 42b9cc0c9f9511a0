"""A web server on loopback that breaks off, fails and lies, and small archives in the true layout of each set."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "data_scripts"
sys.path.insert(0, str(SCRIPTS))


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files`` with ranges; each entry of ``server.plan`` spoils one answer."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, name = self.server, self.path.lstrip("/")
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        server.requests.append((name, start))
        fault, value = server.plan.pop(0) if server.plan else (None, None)
        if fault == "status" or name not in server.files:
            return self.send_error(value if fault == "status" else 404)
        body = server.files[name]
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        rest = body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        rest = rest[:value] if fault == "cut" else rest
        server.sent += len(rest)
        self.wfile.write(rest)


@pytest.fixture
def server(monkeypatch):
    from lama_minimal import download

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that hang up are part of the tests
    server.files, server.plan, server.requests, server.sent = {}, [], [], 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def script():
    """Run a script as a user does: (exit code, standard output, standard error)."""

    def call(name, *arguments, prepare=None, environment=None):
        command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
        extra = {"no_proxy": "127.0.0.1", "PYTHONWARNINGS": "error", **(environment or {})}
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | extra, preexec_fn=prepare, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    return call


def photo(seed, width=40, height=32):
    """A picture with enough detail that no two seeds agree."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="jpeg", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def labels(seed, width=40, height=32, classes=12):
    """Class numbers as a palette picture, as CMP's are."""
    numbers = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    image = Image.fromarray(numbers).convert("P")
    image.putdata(numbers.ravel().tolist())
    image.putpalette([value for number in range(256) for value in (number, 255 - number, number // 2)])
    return image


def tar_of(files, mode="w:gz"):
    """A tar as GNU tar writes it: folders are members too."""
    file, folders = io.BytesIO(), set()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            for parent in reversed(Path(name).parents[:-1]):
                if parent not in folders:
                    folders.add(parent)
                    header = tarfile.TarInfo(str(parent))
                    header.type, header.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(header)
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


def zip_of(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if name.endswith("xml") else zipfile.ZIP_STORED)
    return file.getvalue()


def dtd_files():
    names = ("banded/banded_0002", "banded/banded_0004", "zigzagged/zigzagged_0001")
    files = {f"dtd/images/{name}.jpg": encoded(photo(n)) for n, name in enumerate(names)}
    files |= {f"dtd/labels/{split}1.txt": f"{names[0]}.jpg\n".encode() for split in ("train", "val", "test")}
    return {"dtd-r1.0.1.tar.gz": tar_of({**files, "dtd/imdb/imdb.mat": b"\0" * 200})}


def camvid_files():
    names = ("0001TP_006690", "0006R0_f00930", "Seq05VD_f05100")
    files = {f"camvid/images/{name}.png": encoded(photo(n), "png") for n, name in enumerate(names)}
    for n, name in enumerate(names):
        files[f"camvid/labels/{name}_P.png"] = encoded(
            Image.fromarray(np.full((32, 40), n, np.uint8)), "png"
        )  # grey, not a palette
    return {"camvid.tgz": tar_of({**files, "camvid/codes.txt": b"Animal\nArchway", "camvid/valid.txt": b"x.png\n"})}


def cmp_files():
    archives = {}
    for archive, folder, letter in (("base", "base", "b"), ("extended", "extended", "x")):
        files = {"label_names.txt": b"1 background\n", "readme.txt": b"CMP"}
        for n in (1, 2):
            stem = f"{folder}/cmp_{letter}{n:04d}"
            files[f"{stem}.jpg"] = encoded(photo(n + ord(letter)))
            files[f"{stem}.png"] = encoded(labels(n), "png")
            files[f"{stem}.xml"] = b"<object>" * 50
        archives[f"CMP_facade_DB_{archive}.zip"] = zip_of(files)
    return archives


def celeba_files():
    files = {"CelebAMask-HQ/README.txt": b"x", "CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt": b"idx"}
    for n in (0, 1, 10):
        files[f"CelebAMask-HQ/CelebA-HQ-img/{n}.jpg"] = encoded(photo(n, 64, 64))
        files[f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/{n:05d}_skin.png"] = encoded(photo(n, 32, 32), "png")
    return {"CelebAMask-HQ.zip": zip_of(files)}


def places_files(split):
    if split == "val":
        files = {f"val_large/Places365_val_{n:08d}.jpg": encoded(photo(n)) for n in range(1, 6)}
        return {"val_large.tar": tar_of(files, "w:")}
    if split == "test":
        files = {f"test_large/Places365_test_{n:08d}.jpg": encoded(photo(n)) for n in range(1, 6)}
        return {"test_large.tar": tar_of(files, "w:")}
    kinds = ("a/airfield", "z/zen_garden", "a/apartment_building/outdoor")
    files = {
        f"data_large/{kind}/{n:08d}.jpg": encoded(photo(10 * k + n)) for k, kind in enumerate(kinds) for n in (1, 2)
    }
    return {f"train_large_places365{split.removeprefix('train-')}.tar": tar_of(files, "w:")}


def ffhq_files():
    files, entries = {}, {}
    for n in (0, 1, 2):
        entries[str(n)] = {"category": "training"}
        for kind, folder, size in (("image", "images1024x1024", 64), ("thumbnail", "thumbnails128x128", 16)):
            content = encoded(photo(n, size, size), "png")
            name = f"{folder}/00000/{n:05d}.png"
            files[name] = content
            entries[str(n)][kind] = {
                "file_url": f"https://drive.google.com/uc?id=id{n}{kind}",
                "file_path": name,
                "file_size": len(content),
                "file_md5": hashlib.md5(content).hexdigest(),
            }
    return {"ffhq-dataset-v2.json": json.dumps(entries).encode(), **files}


def fitted(source, files):
    """The source with the lengths and digests of small files, where there are any for the true ones."""

    def fit(archive):
        body = files[archive.name]
        return replace(
            archive,
            size=archive.size and len(body),
            md5=archive.md5 and hashlib.md5(body).hexdigest(),
            sha256=archive.sha256 and hashlib.sha256(body).hexdigest(),
        )

    return replace(source, archives=tuple(fit(archive) for archive in source.archives))
