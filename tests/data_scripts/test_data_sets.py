"""Every set end to end against a server on loopback: fresh, broken off, failing, lying, and a full disk."""

import hashlib
import io
import json
import re
import resource
import zipfile
from pathlib import Path

import camvid
import celeba_hq
import cmp_facades
import common
import dtd
import ffhq
import numpy as np
import places365
import pytest
from conftest import (
    camvid_files,
    celeba_files,
    cmp_files,
    dtd_files,
    encoded,
    ffhq_files,
    fitted,
    photo,
    places_files,
    tar_of,
    zip_of,
)
from PIL import Image

from lama_minimal import download
from lama_minimal.config import UserError

TRUE_SOURCE = places365.source
SPLITS = ("val", "test", "train-standard", "train-challenge")
SETS = {
    "dtd": (dtd, dtd_files, [], ["images/banded/banded_0002.jpg", "images/banded/banded_0004.jpg",
            "images/zigzagged/zigzagged_0001.jpg", "splits/test1.txt", "splits/train1.txt", "splits/val1.txt"]),
    "camvid": (camvid, camvid_files, [], ["codes.txt", "images/0001TP_006690.png", "images/0006R0_f00930.png",
               "images/Seq05VD_f05100.png", "labels/0001TP_006690.png", "labels/0006R0_f00930.png",
               "labels/Seq05VD_f05100.png", "valid.txt"]),
    "cmp_facades": (cmp_facades, cmp_files, [], [*(f"{kind}/cmp_{letter}000{n}.{suffix}"
                    for kind, suffix in (("images", "jpg"), ("labels", "png")) for letter in "bx" for n in (1, 2)),
                    "label_names.txt", "readme.txt"]),
    "celeba_hq": (celeba_hq, celeba_files, [], [f"images/{n:05d}.jpg" for n in (0, 1, 10)]),
    "ffhq": (ffhq, ffhq_files, [], [f"images/00000/{n:05d}.png" for n in (0, 1, 2)]),
    "places val": (places365, lambda: places_files("val"), ["--split", "val"],
                   [f"images/Places365_val_{n:08d}.jpg" for n in range(1, 6)]),
    "places test": (places365, lambda: places_files("test"), ["--split", "test"],
                    [f"images/Places365_test_{n:08d}.jpg" for n in range(1, 6)]),
    **{f"places {split}": (places365, lambda split=split: places_files(split), ["--split", split],
       [f"images/{kind}/0000000{n}.jpg" for kind in ("a/airfield", "a/apartment_building/outdoor", "z/zen_garden")
        for n in (1, 2)]) for split in SPLITS[2:]},
}  # fmt: skip
# Sets that come as one or more archives; FFHQ comes picture by picture.
ARCHIVED = [name for name in SETS if name != "ffhq"]


@pytest.fixture
def fetch(server, monkeypatch, tmp_path):
    """Serve a set and return a function that makes it."""

    def prepare(name, files=None):
        module, build, options, _ = SETS[name]
        server.files = files or build()
        if module is places365:
            small = fitted(TRUE_SOURCE(options[1]), server.files)
            monkeypatch.setattr(places365, "source", lambda _: small)
        else:
            attribute = "LIST" if module is ffhq else "SOURCE"
            monkeypatch.setattr(module, attribute, fitted(getattr(module, attribute), server.files))

        def make(*more, out=tmp_path / "out", mirror=True):
            where = ["--mirror", server.url] if mirror else []
            module.main(["--out", str(out), "--jobs", "1", *where, *options, *map(str, more)])
            return out

        return make

    return prepare


def visible(out):
    """What a user, and training, sees of a folder."""
    files = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.startswith("."))


def refused(pattern, function, *arguments, **options):
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def main_archive(server):
    return max((name for name in server.files if "/" not in name), key=lambda name: len(server.files[name]))


@pytest.mark.parametrize("name", SETS)
def test_fresh_and_again(name, fetch, server, capsys):
    make = fetch(name)
    out = make()
    assert visible(out) == sorted([*SETS[name][3], "made.json"])
    printed = capsys.readouterr().out
    assert printed.index("terms:") < printed.index("done:") < printed.index("next:")
    assert not list(out.glob(".*.draft")) and not list(out.glob(".downloads/*.part"))
    before, seen = {path: path.stat().st_mtime_ns for path in out.rglob("*")}, len(server.requests)
    make()
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before and len(server.requests) == seen
    refused("made with other settings.*choose another --out", make, "--limit", "1")


@pytest.mark.parametrize("name", SETS)
def test_pictures_arrive_unchanged(name, fetch, server):
    make = fetch(name)
    out = make("--jobs", "2")
    sent = set()
    for file, body in server.files.items():
        if file.endswith("zip"):
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                sent |= {hashlib.md5(archive.read(member)).digest() for member in archive.namelist()}
        elif "tar" in file or file.endswith("tgz"):
            import tarfile

            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                sent |= {hashlib.md5(archive.extractfile(m).read()).digest() for m in archive if m.isfile()}
        else:
            sent.add(hashlib.md5(body).digest())
    files = [path for path in out.rglob("*") if path.suffix in (".jpg", ".png")]
    assert files and all(hashlib.md5(path.read_bytes()).digest() in sent for path in files)


@pytest.mark.parametrize("name", [*ARCHIVED[:5], ARCHIVED[6]])
@pytest.mark.parametrize("share", [0.0005, 0.3, 0.5, 0.999])
def test_resumed_where_it_broke_off(name, share, fetch, server, tmp_path, monkeypatch):
    make = fetch(name)
    archive = main_archive(server)
    cut = max(1, int(share * len(server.files[archive])))
    with monkeypatch.context() as patch:
        patch.setattr(download, "RETRIES", 0)
        before = sum(len(server.files[a.name]) for a in _archives(name) if a.name != archive and _first(name, archive))
        server.plan = [(None, None)] * _first(name, archive) + [("cut", cut)]
        refused(rf"broke after {cut} of .*by hand: get {archive} from http", make)
    assert visible(tmp_path / "out") == ["made.json.part"]
    assert visible(make()) == sorted([*SETS[name][3], "made.json"])
    assert (archive, cut) in server.requests
    assert server.sent == sum(len(server.files[a.name]) for a in _archives(name)) and before >= 0


def _archives(name):
    module, _, options, _ = SETS[name]
    return (places365.source(options[1]) if module is places365 else module.SOURCE).archives


def _first(name, archive):
    """How many archives come before this one."""
    return [a.name for a in _archives(name)].index(archive)


@pytest.mark.parametrize("name", SETS)
def test_a_dead_link_names_the_page_and_takes_a_file_fetched_by_hand(name, fetch, server, tmp_path):
    make = fetch(name)
    files, server.files = server.files, {}
    said = refused(r"404.*by hand: get .* from https?://.*--archive", make)
    assert len(server.requests) == 1 and said.count("http") >= 2
    assert visible(tmp_path / "out") == ["made.json.part"]
    if name == "ffhq":
        files = {"images1024x1024.zip": zip_of({n: b for n, b in files.items() if n.startswith("images1024")})}
    for file, body in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(body)
    out = make("--archive", *(tmp_path / file for file in files), mirror=False)
    assert visible(out) == sorted([*SETS[name][3], "made.json"])
    assert all((tmp_path / file).exists() for file in files)  # what the user fetched stays
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", SETS)
def test_500_and_then_fine(name, fetch, server):
    make = fetch(name)
    server.plan = [("status", 500), ("status", 503)]
    assert visible(make()) == sorted([*SETS[name][3], "made.json"])


@pytest.mark.parametrize("name", SETS)
def test_another_file_than_the_published_one(name, fetch, server, tmp_path):
    """A digest or a length where one is published; else the archive's own checks."""
    make = fetch(name)
    archive = main_archive(server)
    body = bytearray(server.files[archive])
    body[body.find(b"img/1.jpg") + 300 if name == "celeba_hq" else len(body) // 2] ^= 1
    server.files[archive] = bytes(body)
    refused("instead of the published|damaged or incomplete", make)
    assert visible(tmp_path / "out") == ["made.json.part"]


@pytest.mark.parametrize("name", ["camvid", "cmp_facades", "celeba_hq"])
def test_without_a_published_digest_the_first_one_is_held(name, fetch, server, tmp_path):
    make = fetch(name)
    out, archive = make(), main_archive(server)
    recorded = (out / ".downloads" / f"{archive}.sha256").read_text()
    assert recorded.split()[0] == hashlib.sha256(server.files[archive]).hexdigest()
    (out / "made.json").rename(out / "made.json.part")  # as if the run had been killed at its very end
    body = bytearray(server.files[archive])
    body[-1] ^= 1
    server.files[archive] = bytes(body)
    refused("not the file seen first", make)


@pytest.mark.parametrize("name", ARCHIVED[:6])
def test_truncated_files_fetched_by_hand(name, fetch, server, tmp_path):
    make = fetch(name)
    archive = main_archive(server)
    for file, body in server.files.items():
        (tmp_path / file).write_bytes(body)
    given = ["--archive", *(tmp_path / file for file in server.files)]
    for length in (0, 1, 511, 512, len(server.files[archive]) // 2, len(server.files[archive]) - 1):
        (tmp_path / archive).write_bytes(server.files[archive][:length])
        for record in tmp_path.glob("*.sha256"):
            record.unlink()
        refused("damaged|instead of|empty|holds none", make, *given, mirror=False)
        assert visible(tmp_path / "out") == ["made.json.part"]


def test_the_true_digests_are_in_force(server, script, tmp_path):
    """As a user runs it: the small archives are not what was published."""
    for name in ("dtd", "camvid", "places val"):
        module, build, options, _ = SETS[name]
        server.files = build()
        file = Path(module.__file__).name
        code, printed, error = script(file, "--out", tmp_path / name, "--mirror", server.url, *options)
        assert code == 2 and "terms:" in printed
        line = error.strip().splitlines()[-1]
        assert line.startswith(f"{file}: error: ") and re.search("instead of", line), error
        assert "Traceback" not in error


@pytest.mark.parametrize("name", SETS)
def test_limit_takes_the_first_pictures_with_their_labels(name, fetch):
    out = fetch(name)("--limit", "2")
    images = [path.relative_to(out).as_posix() for path in sorted(out.glob("images/**/*.*"))]
    if name.startswith("places train"):  # the first of the archive, which is not sorted
        assert images == ["images/a/airfield/00000001.jpg", "images/a/airfield/00000002.jpg"]
    else:
        assert images == [path for path in SETS[name][3] if path.startswith("images/")][:2]
    stems = {path.stem for path in out.glob("labels/*")}
    assert stems in (set(), {Path(path).stem for path in images})
    assert json.loads((out / "made.json").read_text())["pictures"] == 2


# --- sets with something of their own --------------------------------------------------------------------------


def test_places_fetches_no_more_than_the_limit_needs(fetch, server, monkeypatch, tmp_path):
    pictures = {f"val_large/Places365_val_{n:08d}.jpg": encoded(photo(n, 500, 400), quality=95) for n in range(1, 31)}
    make = fetch("places val", {"val_large.tar": tar_of(pictures, "w:")})
    whole = len(server.files["val_large.tar"])
    two = sum(map(len, list(pictures.values())[:2]))
    assert 15_000 < two < whole // 10
    server.plan = [("cut", 5_000), ("status", 503), ("cut", 9_000), ("cut", two + 10_000)]  # and no fifth connection
    out = make("--limit", "2")
    assert [path.read_bytes() for path in sorted(out.glob("images/*"))] == list(pictures.values())[:2]
    assert [start for _, start in server.requests] == [0, 5_000, 5_000, 14_000]
    again = make("--limit", "40", out=tmp_path / "all")  # more than there are: to the end, and that must be there
    assert len(list(again.glob("images/*"))) == 30
    server.files["val_large.tar"] = server.files["val_large.tar"][: -10240 - whole // 2]
    refused("damaged or incomplete|broke", make, "--limit", "40", out=tmp_path / "cut")
    assert visible(tmp_path / "cut") == ["made.json.part"]


def test_places_beginning_never_mixes_two_versions(fetch, server, tmp_path):
    make = fetch("places val")

    class Changing(dict):
        def __getitem__(self, key):
            return super().__getitem__(key) + bytes(len(server.requests))

    server.files = Changing(server.files)
    server.plan = [("cut", 2_000)]
    refused("cannot be resumed", make, "--limit", "5")
    assert visible(tmp_path / "out") == ["made.json.part"]


def test_places_may_stay_a_tar(fetch, server, tmp_path):
    out = fetch("places val")("--no-unpack")
    assert (out / "val_large.tar").read_bytes() == server.files["val_large.tar"]
    assert visible(out) == ["made.json", "val_large.tar"]
    refused("leave out --limit", fetch("places val"), "--no-unpack", "--limit", "3", out=tmp_path / "other")


def test_celeba_small_and_in_the_older_packing(fetch, tmp_path):
    out = fetch("celeba_hq")("--size", "16")
    assert {Image.open(path).size for path in out.glob("images/*.jpg")} == {(16, 16)}
    old = {f"data256x256/{n:05d}.jpg": encoded(photo(n, 32, 32)) for n in (1, 2, 30000)}
    (tmp_path / "data256x256.zip").write_bytes(zip_of(old))
    celeba_hq.main(["--out", str(tmp_path / "old"), "--archive", str(tmp_path / "data256x256.zip"), "--jobs", "1"])
    names = {path.name: path.read_bytes() for path in (tmp_path / "old/images").iterdir()}
    assert names["00000.jpg"] == old["data256x256/00001.jpg"] and set(names) == {"00000.jpg", "00001.jpg", "29999.jpg"}


def test_labels_are_the_class_numbers(fetch):
    out = fetch("camvid")()
    assert np.unique(np.asarray(Image.open(out / "labels/Seq05VD_f05100.png"))).tolist() == [2]
    facades = fetch("cmp_facades")(out=out.parent / "cmp")
    with Image.open(facades / "labels/cmp_b0001.png") as label:
        assert label.mode == "P" and np.asarray(label).max() == 11


def test_ffhq_goes_on_another_day(fetch, server, tmp_path):
    """Google's quota answers with a web page; what has come is kept."""
    make = fetch("ffhq")
    missing = server.files.pop("images1024x1024/00000/00001.png")
    refused("404.*go on later.*--archive", make)
    assert visible(tmp_path / "out") == ["made.json.part"]
    server.files["images1024x1024/00000/00001.png"] = missing
    seen = len(server.requests)
    make()
    assert ("images1024x1024/00000/00001.png", 0) in server.requests[seen:]
    assert "ffhq-dataset-v2.json" not in [name for name, _ in server.requests[seen:]]
    assert len(visible(make("--thumbnails", out=tmp_path / "small"))) == 4
    server.files["images1024x1024/00000/00001.png"] = b"x" + missing[1:]
    refused("instead of the published", make, out=tmp_path / "wrong")
    assert visible(tmp_path / "wrong") == ["made.json.part"]


def test_unreadable_pictures_are_left_out_and_counted(fetch, server, capsys):
    good = {f"camvid/images/{n}.png": encoded(photo(n), "png") for n in range(3)}
    good |= {f"camvid/labels/{n}_P.png": encoded(photo(n).convert("L"), "png") for n in range(3)}
    good["camvid/images/1.png"] = good["camvid/images/1.png"][:-40]
    good["camvid/labels/2_P.png"] = b"no picture"
    out = fetch("camvid", {"camvid.tgz": tar_of(good)})()
    assert visible(out) == ["images/0.png", "labels/0.png", "made.json"]
    assert json.loads((out / "made.json").read_text())["unreadable"] == 2
    assert "2 left out" in capsys.readouterr().out


def test_a_foreign_archive_and_a_foreign_folder(fetch, server, tmp_path):
    make = fetch("camvid", {"camvid.tgz": tar_of({"else/a.png": encoded(photo(0), "png")})})
    refused("none of the pictures expected", make)
    assert visible(tmp_path / "out") == ["made.json.part"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused("not made by this script", make, out=tmp_path / "mine")
    assert visible(tmp_path / "mine") == ["letter.txt"]
    refused("no such file", make, "--archive", tmp_path / "missing.tgz", out=tmp_path / "new")


# --- a full disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dtd", "cmp_facades", "celeba_hq", "places val"])
@pytest.mark.parametrize("where", ["the note at the beginning", "download", "unpacking", "the note at the end"])
def test_full_disk(name, where, fetch, server, tmp_path, monkeypatch):
    """ENOSPC at different places, planted under the calls that write; with room, the same command goes on."""
    make = fetch(name)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def full_at(mode):
        true = Path.open
        return lambda path, *how, **options: full() if mode in how else true(path, *how, **options)

    with monkeypatch.context() as patch:
        if where == "the note at the beginning":
            patch.setattr(common.os, "fsync", full)
        elif where == "download":
            patch.setattr(Path, "open", full_at("ab"))  # how a part of a download grows
        elif where == "unpacking":
            patch.setattr(common.shutil, "copyfileobj", full)
        else:
            patch.setattr(common, "finish", full)
        with pytest.raises((UserError, OSError), match="No space left"):
            make()
    assert not (tmp_path / "out" / "made.json").exists()
    if where != "the note at the end":
        assert visible(tmp_path / "out") == ["made.json.part"] * (where != "the note at the beginning")
    assert visible(make()) == sorted([*SETS[name][3], "made.json"])


@pytest.mark.parametrize("limit", [300, 1000])
def test_full_disk_as_a_user_sees_it(limit, script, tmp_path):
    """A limit on the size of files: the system's own error, from the system's own write."""
    (tmp_path / "photos.zip").write_bytes(zip_of({f"a/{n}.png": encoded(photo(n, 64, 64), "png") for n in range(4)}))

    def prepare():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = ("--out", tmp_path / "out", "--archive", tmp_path / "photos.zip")
    code, _, error = script("celeba_hq.py", *arguments, prepare=prepare)
    assert code == 2, error
    assert re.search(r"^celeba_hq.py: error: cannot store.*(File too large)", error.strip().splitlines()[-1]), error
    assert "Traceback" not in error and not [name for name in visible(tmp_path / "out") if "images" in name]
