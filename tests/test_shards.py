"""Tar files as data sets: what is in them is found, read and shuffled rightly, from disks and from servers."""

import gc
import gzip
import io
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lama_minimal import download, shards
from lama_minimal.config import DataSettings, UserError
from lama_minimal.data import (
    batches_of,
    evaluation_set,
    find_images,
    read_image,
    split_images,
    training_loader,
    validation_set,
)
from lama_minimal.shards import CHUNK, OPEN_FILES, WINDOW, Shards, expand, is_shards, shuffled

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of each test's own."""
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(number: int, size: int = 16) -> bytes:
    """A picture that tells its number."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256, number // 256, 128)).save(file, "png")
    return file.getvalue()


def number(image: np.ndarray) -> int:
    """The number of a picture of :func:`png`."""
    assert (image == image[0, 0]).all() and image[0, 0, 2] == 128
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def write_tar(path: Path, members: dict[str, bytes | None], kind: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of these members in their order; None = a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            header.size = len(content or b"")
            tar.addfile(header, None if content is None else io.BytesIO(content))
    return path


def write_shards(folder: Path, count: int, each: int) -> str:
    """Shards of pictures 0, 1, 2, …; returns their pattern."""
    names = []
    for index, first in enumerate(range(0, count, each)):
        members = {f"{n:09d}.png": png(n) for n in range(first, min(count, first + each))}
        names.append(write_tar(folder / f"train-{index:06d}.tar", members))
    return str(folder / f"train-{{000000..{len(names) - 1:06d}}}.tar")


# --------------------------------------------------------------------------------------------------------- patterns


def test_patterns_are_expanded_as_in_a_shell(tmp_path) -> None:
    """Against bash itself."""
    for pattern in ("{008..011}", "a{0..3}b{x,y}.tar", "{00..01}-{000..002}", "{a,,b}c"):
        url = f"http://host/{pattern}"
        wanted = subprocess.run(["bash", "-c", f"echo {url}"], capture_output=True, text=True).stdout.split()
        assert expand(url) == wanted
    for name in ("a-1.tar", "a-0.tar", "b.tar"):
        (tmp_path / name).touch()
    found = expand(f"{tmp_path}/a-*.tar::{tmp_path}/b.tar::{tmp_path}/a-0.tar")
    assert [Path(place).name for place in found] == ["a-0.tar", "a-1.tar", "b.tar"]  # each once


@pytest.mark.parametrize("wrong", ["gone.tar", "a-{0..1}.tar", "a-{3..1}.tar", "a-*.tar", "a-{0..99999999}.tar"])
def test_wrong_patterns_are_one_line(tmp_path, wrong) -> None:
    with pytest.raises(UserError) as caught:
        expand(str(tmp_path / wrong))
    assert "\n" not in str(caught.value) and "tar" in str(caught.value)


def test_sources_that_are_shards() -> None:
    for source in ("a.tar", "a/{0..3}.tar", "https://host/a.tar", "a.tar.gz", "a.tar::b.tar", "http://host/x?key=1"):
        assert is_shards(source), source
    for source in ("a", "a/tar", "photos.targets", Path("b.jpg")):
        assert not is_shards(source), source


# ------------------------------------------------------------------------------------------------------------ index


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_an_archive_of_folders_is_read_in_place(tmp_path, kind) -> None:
    """As Places' own: folders, names of any length, letters of any alphabet, files that are no images."""
    deep = "data_large/a/airfield" + "/x" * (30 if kind == tarfile.USTAR_FORMAT else 120)
    members = {
        "data_large": None,
        "data_large/a/airfield/00000001.jpg": b"first",
        f"{deep}/00000002.JPG": b"",
        "e": b"x",
    }
    members |= {"data_large/z/größe.Webp": bytes(5000), "notes.txt": b"no", ".x.png": b"no", "a.v2.jpeg": b"4" * 512}
    path = write_tar(tmp_path / "places.tar", members, kind)
    images = Shards(str(path))
    wanted = [
        name for name, content in members.items() if content is not None and name[0] in "da" and name != "data_large"
    ]
    assert [images.name(n) for n in range(len(images))] == wanted
    assert [image.content for image in images] == [members[name] for name in wanted]
    assert images[0].name == "places.tar/data_large/a/airfield/00000001.jpg"
    assert str(path) in str(images[3]) and "größe" in str(images[2])


def test_samples_of_the_webdataset_convention(tmp_path) -> None:
    """One image each, its label beside it; other members of the sample are no images; a later member replaces one."""
    members = {"1.jpg": b"one", "1.label.png": b"label", "1.seg.png": b"no", "1.json": b"{}", "2.png": b"two"}
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        header = tarfile.TarInfo("2.png")
        header.size = 3
        tar.addfile(header, io.BytesIO(b"new"))
    images = Shards(str(path))
    assert [image.content for image in images] == [b"one", b"new"]
    assert [images.label(n) for n in (0, 1)] == [b"label", None]
    assert [images.take(np.array([1, 0])).label(n) for n in (0, 1)] == [None, b"label"]


def test_a_tar_cut_anywhere_is_refused(tmp_path) -> None:
    """Never taken for a shorter one: every length on a grid of 256 bytes up to the block that ends it."""
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.png": png(n) for n in range(4)}).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # where the zeros of the end begin
    cut = tmp_path / "cut.tar"
    for length in range(0, end + 256, 256):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.tar"):
            Shards(str(cut))
    cut.write_bytes(whole[: end + 512])
    assert len(Shards(str(cut))) == 4
    damaged = bytearray(whole)
    damaged[len(png(0)) // 512 * 512 + 1024 + 150] ^= 0x55  # the checksum of the second header
    cut.write_bytes(damaged)
    with pytest.raises(UserError, match=r"cut\.tar"):
        Shards(str(cut))


def test_what_is_no_plain_tar_of_images_is_one_line(tmp_path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.png": png(1)}).read_bytes()
    files = {"packed.tar.gz": gzip.compress(tar), "text.tar": b"hello" * 300, "empty.tar": b""}
    files |= {"none.tar": write_tar(tmp_path / "b.tar", {"a.txt": b"x"}).read_bytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            Shards(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"tar files: name them, such as"):
        find_images(tmp_path)


def test_the_index_is_made_once_and_when_the_file_changes(tmp_path, cache, monkeypatch) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": png(1)})
    assert len(Shards(str(path))) == 1
    scan = shards.scan
    monkeypatch.setattr(shards, "scan", lambda *_: pytest.fail("scanned again"))
    assert Shards(str(path))[0].content == png(1)
    monkeypatch.setattr(shards, "scan", scan)
    write_tar(path, {"1.png": png(1), "2.png": png(2)})
    assert len(Shards(str(path))) == 2
    for kept in cache.rglob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:100])
    assert len(Shards(str(path))) == 2
    for kept in cache.rglob("*.npz"):
        kept.unlink()
    (cache / "shards").rmdir()
    (cache / "shards").write_text("in the way")
    with pytest.raises(UserError, match="LAMA_MINIMAL_CACHE"):
        Shards(str(path))


def test_few_files_are_open_however_many_shards_there_are(tmp_path) -> None:
    images = Shards(write_shards(tmp_path, 300, 2))
    before = len(os.listdir("/proc/self/fd"))
    for n in np.random.default_rng(0).permutation(300):
        assert number(read_image(images[int(n)])[0]) == n
    assert 1 < len(os.listdir("/proc/self/fd")) - before <= OPEN_FILES < 150
    assert pickle.loads(pickle.dumps(images))[7].content == png(7)


def _read_many(images: Shards, seed: int) -> None:
    """Read 4,000 times; exit with 1 where something else came than should."""
    chosen = np.random.default_rng(seed).integers(len(images), size=4000)
    contents = [png(n) for n in range(len(images))]
    sys.exit(any(images[int(n)].content != contents[n] for n in chosen))


def test_forked_processes_do_not_disturb_each_other(tmp_path) -> None:
    """They inherit open files, and with them one position in each."""
    images = Shards(write_shards(tmp_path, 30, 15))
    assert images[0].content == png(0) and images[20].content == png(20)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_read_many, args=(images, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_ends_the_run_and_is_no_broken_image(tmp_path, workers) -> None:
    """In one line, from workers too."""
    data = DataSettings(folder=write_shards(tmp_path, 40, 20), size=16, evaluation_images=0, workers=workers)
    loaders = [training_loader(data, 4) for _ in range(2)]
    for loader in loaders:
        loader.dataset.images._forget()
    (tmp_path / "train-000001.tar").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"train-000001\.tar") as caught:
        list(itertools.islice(batches_of(loaders[0]), 10))
    assert "\n" not in str(caught.value)
    (tmp_path / "away").rename(tmp_path / "train-000001.tar")
    os.truncate(tmp_path / "train-000000.tar", 100)
    with pytest.raises(UserError, match=r"train-000000\.tar has become shorter") as caught:
        list(itertools.islice(batches_of(loaders[1]), 10))
    assert "\n" not in str(caught.value)


def test_broken_images_are_counted_and_replaced(tmp_path) -> None:
    members = {f"{n}.png": png(n)[: 40 if n in (1, 4) else None] for n in range(9)}
    folder = str(write_tar(tmp_path / "a.tar", members))
    data = DataSettings(folder=folder, size=16, augmentation="none", evaluation_images=0, workers=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batch = next(iter(training_loader(data, 9)))
    seen = {number(image.permute(1, 2, 0).numpy()) for image in batch.image}
    assert seen == set(range(9)) - {1, 4}
    messages = [str(each.message) for each in caught if each.category is UserWarning]
    assert "unreadable image" in messages[0] and "a.tar" in messages[0]


def test_a_set_that_is_dropped_closes_its_files(tmp_path) -> None:
    """Its own ones only: a part taken from it goes on reading."""
    images = Shards(write_shards(tmp_path, 40, 20))
    part = images.take(np.arange(30))
    assert images[0].content == part[0].content
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del images
        gc.collect()
        assert part[25].content
        del part
        gc.collect()
    assert not [each for each in caught if each.category is ResourceWarning]


# ------------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("count", [1, 63, 64, 65, 8192, 8193, 50_000])
def test_every_image_once_in_an_order_that_disks_like(count) -> None:
    order = shuffled(count, np.random.default_rng(3))
    assert sorted(order) == list(range(count))
    assert count < 64 or (order != shuffled(count, np.random.default_rng(4))).mean() > 0.9
    # at any time at most two windows of chunks are in use (the last chunk is short), whatever the number of images
    for start in range(0, count, 997):
        assert len(set(order[start : start + CHUNK * WINDOW] // CHUNK)) <= 2 * WINDOW + 2
    if count > 4 * CHUNK * WINDOW:  # which a shuffle of everything would not manage
        assert len(set(np.random.default_rng(0).permutation(count)[: CHUNK * WINDOW] // CHUNK)) > 3 * WINDOW


def test_a_batch_mixes_the_whole_set() -> None:
    """A set sorted by class, such as Places: 100 classes of 500 images; batches of 32 see nearly as many as by chance.

    Expected by chance: 100 (1 - 0.99³²) = 27.5 classes.
    """
    order = shuffled(50_000, np.random.default_rng(0))
    classes = [len(set(order[start : start + 32] // 500)) for start in range(0, 49_000, 32)]
    assert np.mean(classes) > 24


# ------------------------------------------------------------------------------------------------------ exactly once


def stream(data: DataSettings, batch: int, world: int, steps: int, position: int = 0) -> list[int]:
    """Numbers of the samples of all processes, in the order of their position in the data."""
    ranks = [itertools.islice(training_loader(data, batch, 5, position, rank, world), steps) for rank in range(world)]
    found = []
    for batches in zip(*ranks, strict=True):
        found += [number(image.permute(1, 2, 0).numpy()) for one in batches for image in one.image]
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_exactly_once(tmp_path, world, workers) -> None:
    """Over three epochs of 37 images, none a multiple of a batch, broken off in the middle of the second one.

    What workers had read ahead is lost with them, and comes again; after the break also with another number of
    processes.
    """
    pattern = write_shards(tmp_path, 41, 7)
    data = DataSettings(folder=pattern, size=16, augmentation="none", evaluation_images=4, workers=workers)
    held_out = {number(sample.image) for sample in validation_set(data)}
    assert len(held_out) == 4
    trained = sorted(set(range(41)) - held_out)
    together = 3 * world
    first = 56 // together
    seen = stream(data, 3, world, first)
    for after in (world, 3 - world if world < 3 else 1):
        rest = stream(data, 3, after, -(-(111 - len(seen)) // (3 * after)), len(seen))
        whole = (seen + rest)[:111]
        epochs = [whole[start : start + 37] for start in (0, 37, 74)]
        assert [sorted(epoch) for epoch in epochs] == [trained] * 3
        assert epochs[0] != epochs[1] != epochs[2]


def test_shards_and_one_big_archive_hold_the_same(tmp_path) -> None:
    """How a set is cut into files changes nothing."""
    many = Shards(write_shards(tmp_path, 30, 4))
    one = Shards(str(write_tar(tmp_path / "all.tar", {f"{n:09d}.png": png(n) for n in range(30)})))
    assert [image.content for image in many] == [image.content for image in one]
    (train, held), (also, too) = (
        split_images(source, 3) for source in (f"{tmp_path}/train-*.tar", f"{tmp_path}/all.tar")
    )
    assert [i.content for i in train] == [i.content for i in also] and len(train) == 27
    assert [i.content for i in held] == [i.content for i in too] and len(held) == 3


def test_evaluation_on_shards(tmp_path) -> None:
    """A fixed choice of the whole set; held-out shards of their own leave all others to training."""
    pattern = write_shards(tmp_path, 30, 8)
    tasks = evaluation_set(pattern, 5, 16, "thick")
    assert [task.name for task in tasks] == [
        f"train-{number(t.image) // 8:06d}.tar/{number(t.image):09d}.png" for t in tasks
    ]
    again = evaluation_set(pattern, 3, 16, "thick")
    assert [number(task.image) for task in again] == [number(task.image) for task in tasks[:3]]
    write_tar(tmp_path / "val.tar", {f"{n}.png": png(n) for n in range(100, 104)})
    data = DataSettings(folder=pattern, held_out=str(tmp_path / "val.tar"), size=16, workers=0, evaluation_images=3)
    assert {number(task.image) for task in validation_set(data)} < set(range(100, 104))
    assert len(training_loader(data, 2).dataset.images) == 30


def test_prepare_folder_to_training(tmp_path) -> None:
    """The shards that the data script writes, labels alongside."""
    for n in range(12):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{n}.png").write_bytes(png(n, 32))
        Image.new("L", (32, 32), n).save(tmp_path / "in" / f"{n}.label.png")
    script = [sys.executable, str(ROOT / "data_scripts/prepare_folder.py"), str(tmp_path / "in"), "--out"]
    options = ["--least", "16", "--shard-size", "5", "--val", "2", "--jobs", "1"]
    done = subprocess.run([*script, str(tmp_path / "out"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pattern = done.stdout.split("--data '")[1].split("'")[0]
    images = Shards(pattern)
    numbers = [number(read_image(image)[0]) for image in images]
    held = [number(read_image(image)[0]) for image in Shards(str(tmp_path / "out/val-*.tar"))]
    assert sorted(numbers + held) == list(range(12)) and len(held) == 2
    for n, label in enumerate(map(images.label, range(len(images)))):
        assert (np.asarray(Image.open(io.BytesIO(label))) == numbers[n]).all()


# --------------------------------------------------------------------------------------------------------- over http


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.folder``; ``server.plan`` spoils answers one after the other."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        path = server.folder / self.path.lstrip("/")
        server.requests.append(self.headers.get("Range"))
        fault = server.plan.pop(0) if server.plan else None
        if isinstance(fault, int) or not path.is_file():
            return self.send_error(fault or 404)
        body, span = path.read_bytes(), self.headers.get("Range")
        total = len(body)
        if server.ranges and span:
            first, last = map(int, span.removeprefix("bytes=").split("-"))
            body = body[first : last + 1]
        self.send_response(206 if server.ranges and span else 200)
        if server.ranges and span:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{total}")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that hang up
    server.folder, server.ranges, server.plan, server.requests = tmp_path / "served", True, [], []
    server.pattern = f"http://127.0.0.1:{server.server_port}/" + Path(write_shards(server.folder, 150, 50)).name
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_over_http(server, cache, ranges, workers) -> None:
    """With ranges, a request for each chunk of neighbours; without, each shard fetched once. Exactly once as ever."""
    server.ranges = ranges
    data = DataSettings(folder=server.pattern, size=16, augmentation="none", evaluation_images=0, workers=workers)
    assert len(Shards(server.pattern)) == 150
    server.requests.clear()
    seen = stream(data, 7, 1, 43)
    assert sorted(seen[:150]) == sorted(seen[150:300]) == list(range(150))
    pieces = len(list(cache.rglob("*.piece")))
    assert pieces == (5 if ranges else 0)  # chunks 0–63 and 64–127 both lie in two shards, the last one in one
    # three for whether the files are still the same; two workers may ask for a piece at the same time
    assert len(server.requests) == 3 + pieces or (workers and 3 + pieces < len(server.requests) <= 3 + 2 * pieces)
    server.requests.clear()
    assert stream(data, 7, 1, 5) == seen[:35]
    assert len(server.requests) == 3


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_stumbles(server, ranges) -> None:
    """500, 503 and answers cut short are asked for again; four in a row are not too many."""
    server.ranges = ranges
    server.plan = [500, None, 503, "cut", 500] if ranges else [500, None, None, 503, None, "cut", 500]
    images = Shards(server.pattern)
    server.plan = ["cut", 500, 429] if ranges else []
    assert [number(read_image(image)[0]) for image in images] == list(range(150))
    server.plan = [500] * 20
    with pytest.raises(UserError, match="500") as caught:
        Shards(server.pattern)
    assert "\n" not in str(caught.value)


def test_remote_files_that_are_not_what_they_were(server) -> None:
    images = Shards(server.pattern)
    write_tar(server.folder / "train-000000.tar", {"1.png": png(1)})
    with pytest.raises(UserError, match="changed on its server"):
        images[3]
    whole = (server.folder / "train-000001.tar").read_bytes()
    for ranges in (True, False):
        server.ranges = ranges
        (server.folder / "train-000001.tar").write_bytes(whole[:40_000])
        with pytest.raises(UserError, match=r"cut short"):
            Shards(server.pattern)
    with pytest.raises(UserError, match="404"):
        Shards(server.pattern.replace("train", "gone"))


def test_the_cache_is_bounded(server, cache) -> None:
    """Pieces: the oldest go. Whole shards: refused with what to do."""
    size = (server.folder / "train-000000.tar").stat().st_size
    images = Shards(server.pattern, cache=1.5 * size / 1e9)
    for n in range(150):
        assert number(read_image(images[n])[0]) == n
        assert sum(path.stat().st_size for path in cache.rglob("*.piece")) <= 1.5 * size
    assert list(cache.rglob("*.piece"))
    server.ranges = False
    with pytest.raises(UserError, match=r"data\.cache"):
        Shards(server.pattern, cache=2.5 * size / 1e9)
    assert len(Shards(server.pattern, cache=3.5 * size / 1e9)) == 150


def test_single_images_from_far_apart_are_fetched_alone(server, cache) -> None:
    """A few held-out images of a large set cost their own bytes and no more."""
    images = Shards(server.pattern).take(np.array([140, 3, 90, 49]))
    assert [number(read_image(image)[0]) for image in images] == [140, 3, 90, 49]
    assert sum(path.stat().st_size for path in cache.rglob("*.piece")) < 5 * len(png(0))
