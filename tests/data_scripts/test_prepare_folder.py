"""Shards from a folder of everything that people have lying about, read back by another reader."""

import hashlib
import io
import json
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import prepare_folder
import pytest
from conftest import SCRIPTS, encoded, photo, tar_of, zip_of
from PIL import Image

from lama_minimal.config import UserError

LEAST = ("--least", "16", "--jobs", "1")


def refused(pattern, *arguments):
    with pytest.raises(UserError, match=pattern) as caught:
        prepare_folder.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)


def prepare(*arguments):
    prepare_folder.main([str(argument) for argument in arguments])


def read_tar(path):
    """Names and contents by the format's definition alone (POSIX ustar), so that nothing of tarfile is trusted."""
    data, at, members = path.read_bytes(), 0, []
    while any(block := data[at : at + 512]):
        checksum = sum(block[:148]) + 8 * 32 + sum(block[156:])
        assert int(block[148:156].rstrip(b"\0 "), 8) == checksum and block[257:262] == b"ustar"
        assert block[156:157] == b"0"
        size = int(block[124:135], 8)
        members.append((block[:100].rstrip(b"\0").decode(), data[at + 512 : at + 512 + size]))
        at += 512 + (size + 511) // 512 * 512
    assert len(data) % 10240 == 0 and len(data) - at >= 1024
    return members


def shards(out):
    return {path.name: read_tar(path) for path in sorted(out.glob("*.tar"))}


def samples(out):
    """All samples: key → extension → bytes."""
    found = {}
    for members in shards(out).values():
        for name, content in members:
            key, _, extension = name.partition(".")
            assert extension not in found.setdefault(key, {})
            found[key][extension] = content
    return found


def contents(out):
    return {body for parts in samples(out).values() for body in parts.values()}


def sources(out):
    lines = (out / "names.jsonl").read_text().splitlines()
    return {line["key"]: line["source"] for line in map(json.loads, lines)}


def digests(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.suffix == ".tar"}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def everything(tmp_path):
    """Names and formats of all kinds; what shall be kept has a name with "keep" in it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    grey = photo(5).convert("L")
    palette = photo(6).quantize(16)
    files = {
        "keep plain.jpg": encoded(photo(1)),
        "keep größe 日本 😀.JPG": encoded(photo(2)),
        "a/keep.jpg": encoded(photo(3)),
        "b/keep.jpg": encoded(photo(4)),  # the same name in another folder
        "b/keep.grey.with.dots.png": encoded(grey, "png"),
        "keep palette.png": encoded(palette, "png"),
        "keep cmyk.jpeg": encoded(photo(7).convert("CMYK")),
        "keep turned.jpg": encoded(photo(8), exif=exif),
        "keep not turned.jpg": encoded(photo(8)),  # the same pixels before turning: another picture
        "keep 16 bit.png": encoded(Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30), "png"),
        "keep transparent.png": encoded(photo(9).convert("RGBA").rotate(20), "png"),
        "keep.webp": encoded(photo(10), "webp"),
        "keep\nnewline.png": encoded(photo(11), "png"),
        "z/again plain.jpg": encoded(photo(1)),
        "z/re-encoded.png": encoded(Image.open(io.BytesIO(encoded(photo(3)))), "png"),
        "z/re-encoded tightly.png": encoded(Image.open(io.BytesIO(encoded(photo(3)))), "png", optimize=True),
        "z/palette as colours.png": encoded(palette.convert("RGB"), "png"),
        "z/opaque.png": encoded(Image.open(io.BytesIO(encoded(photo(4)))).convert("RGBA"), "png"),
        "z/grey as colours.png": encoded(grey.convert("RGB"), "png"),
        "broken/truncated.jpg": encoded(photo(20, 200, 160))[:-300],
        "broken/truncated.png": encoded(photo(21), "png")[:-30],
        "broken/empty.jpg": b"",
        "broken/text.png": b"no picture",
        "tiny/15.png": encoded(photo(22, 15, 300), "png"),
        "notes.txt": b"no picture and no name of one",
        ".hidden/x.png": encoded(photo(23), "png"),
        "._keep.jpg": b"what macOS leaves about",
    }
    return write(tmp_path / "every thing", files), files


def test_what_is_kept_and_what_is_not(everything, tmp_path, capsys):
    folder, files = everything
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "shards"
    prepare(folder, "--out", out, "--val", "3", "--shard-size", "4", *LEAST)
    found, names = samples(out), sources(out)
    wanted = {name for name in files if "keep" in name and "._" not in name}
    assert sorted(names.values()) == sorted(wanted) and found.keys() == names.keys()
    for key, parts in found.items():
        assert parts == {Path(names[key]).suffix[1:].lower(): files[names[key]]}  # the original bytes
    index = json.loads((out / "index.json").read_text())
    assert index["samples"] == len(wanted)
    assert index["dropped"] == {"broken": 4, "tiny": 1, "label": 0, "duplicate": 6}
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if line.startswith("left out: ")]) == 10
    assert "next: lama-minimal train --data '" in printed


def test_shards_are_as_the_index_says(everything, tmp_path):
    folder, _ = everything
    out = tmp_path / "shards"
    prepare(folder, "--out", out, "--val", "3", "--shard-size", "4", *LEAST)
    index, tars = json.loads((out / "index.json").read_text()), shards(out)
    assert [shard["name"] for shard in index["shards"]] == list(tars) == [
        "train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"
    ]  # fmt: skip
    assert [shard["samples"] for shard in index["shards"]] == [4, 4, 2, 3]
    assert {shard["name"]: shard["sha256"] for shard in index["shards"]} == digests(out)
    for shard in index["shards"]:
        assert shard["bytes"] == (out / shard["name"]).stat().st_size
        assert shard["samples"] == len(tars[shard["name"]]) and shard["labels"] == 0
    keys = [name.partition(".")[0] for members in tars.values() for name, _ in members]
    assert keys == sorted(set(keys)) == [f"{n:09d}" for n in range(13)]
    assert sum(shard["samples"] for shard in index["shards"]) == index["samples"]


def test_shuffled_by_the_seed_and_by_nothing_else(everything, tmp_path):
    folder, files = everything
    prepare(folder, "--out", tmp_path / "one", *LEAST)
    prepare(folder, "--out", tmp_path / "jobs", *LEAST[:2], "--jobs", "2")
    moved = write(
        tmp_path / "moved", {f"q/{n}{Path(name).suffix}": body for n, (name, body) in enumerate(files.items())}
    )
    prepare(moved, "--out", tmp_path / "elsewhere", *LEAST)
    prepare(folder, "--out", tmp_path / "seed", "--seed", "1", *LEAST)
    assert digests(tmp_path / "one") == digests(tmp_path / "jobs")
    assert list(sources(tmp_path / "one").values()) != list(sources(tmp_path / "seed").values())
    order = list(sources(tmp_path / "one").values())
    assert order != sorted(order)
    pixels = [
        {hashlib.md5(b).digest() for p in samples(tmp_path / n).values() for b in p.values()} for n in ("one", "seed")
    ]
    assert pixels[0] == pixels[1]
    # Which of equal pictures is the first depends on names, so only the number of equal files can be compared here.
    assert len(samples(tmp_path / "elsewhere")) == len(order) + 1  # "._keep.jpg" and ".hidden" have names now


def test_again_does_nothing_and_a_changed_folder_is_noticed(everything, tmp_path, capsys):
    folder, _ = everything
    out = tmp_path / "shards"
    prepare(folder, "--out", out, *LEAST)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not [name for name in before if name.startswith(".")]
    capsys.readouterr()
    prepare(folder, "--out", out, *LEAST)
    assert "nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    write(folder, {"new.png": encoded(photo(50), "png")})
    refused("has changed since", folder, "--out", out, *LEAST)
    refused("made with other settings", folder, "--out", out, "--seed", "3", *LEAST)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_labels_beside_or_in_a_folder_of_their_own(tmp_path):
    def label(n, width=40, kind="L"):
        return encoded(Image.fromarray(np.full((32, width), n, np.uint8)).convert(kind), "png")

    pictures = {f"sub/{n}.jpg": encoded(photo(n)) for n in range(4)}
    twin = {"sub/0.png": label(0), "sub/1.png": label(1, 41), "sub/2.png": label(2, kind="RGB")}
    folder, labels = write(tmp_path / "images", pictures), write(tmp_path / "labels", twin)
    prepare(folder, "--labels", labels, "--out", tmp_path / "one", "--val", "0", *LEAST)
    found = sorted(samples(tmp_path / "one").values(), key=len)
    assert found == [{"jpg": pictures["sub/3.jpg"]}, {"jpg": pictures["sub/0.jpg"], "label.png": twin["sub/0.png"]}]
    index = json.loads((tmp_path / "one" / "index.json").read_text())
    assert index["dropped"]["label"] == 2 and index["shards"][0]["labels"] == 1
    beside = write(tmp_path / "beside", {**pictures, "sub/3.label.png": label(7)})
    prepare(beside, "--out", tmp_path / "two", "--val", "0", *LEAST)
    assert [parts.get("label.png") for parts in samples(tmp_path / "two").values()].count(label(7)) == 1
    assert len(samples(tmp_path / "two")) == 4  # the label is no picture of its own


def test_shards_by_size(tmp_path):
    noise = (np.random.default_rng(n).integers(0, 256, (300, 400, 3), np.uint8) for n in range(7))
    files = {f"{n}.png": encoded(Image.fromarray(pixels), "png") for n, pixels in enumerate(noise)}
    prepare(write(tmp_path / "p", files), "--out", tmp_path / "out", "--val", "0", "--shard-size", "1MB", *LEAST)
    sizes = [len(members) for members in shards(tmp_path / "out").values()]
    assert sizes == [2, 2, 2, 1]  # 360 kB each


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_archives_give_the_shards_of_their_folder(pack, tmp_path):
    files = {f"holiday/{n} é.png": encoded(photo(n), "png") for n in range(12)}
    (tmp_path / "photos").write_bytes(pack(files))
    prepare(tmp_path / "photos", "--out", tmp_path / "packed", *LEAST)
    prepare(write(tmp_path / "folder", files), "--out", tmp_path / "plain", *LEAST)
    assert digests(tmp_path / "packed") == digests(tmp_path / "plain")
    assert not [path for path in (tmp_path / "packed").iterdir() if path.name.startswith(".")]


def test_bad_input_is_one_line(tmp_path):
    out = tmp_path / "out"
    refused("no such folder or archive", tmp_path / "missing", "--out", out)
    refused("no pictures in", write(tmp_path / "empty", {"a.txt": b""}), "--out", tmp_path / "1")
    refused(
        "none of the 1 pictures can be used.*text.png",
        write(tmp_path / "bad", {"text.png": b"x"}),
        "--out",
        tmp_path / "2",
    )
    good = write(tmp_path / "good", {f"{n}.png": encoded(photo(n), "png") for n in range(3)})
    refused("leaves none of 3", good, "--out", tmp_path / "3", "--val", "3", *LEAST)
    refused("no such folder of labels", good, "--out", out, "--labels", tmp_path / "missing", *LEAST)
    (tmp_path / "cut.zip").write_bytes(zip_of({"a.png": encoded(photo(1), "png")})[:-30])
    refused("damaged", tmp_path / "cut.zip", "--out", tmp_path / "4")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../a.png", encoded(photo(1), "png"))
    refused("not safe", tmp_path / "evil.zip", "--out", tmp_path / "5")
    assert not list(tmp_path.rglob("*.tar")) and not list(tmp_path.rglob("index.json"))


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    folder = write(tmp_path / "p", {f"{n}.png": encoded(photo(n), "png") for n in range(3)})
    true = prepare_folder.shuffle

    def change(*arguments):
        write(folder, {"1.png": encoded(photo(99), "png") + b"x"})
        return true(*arguments)

    monkeypatch.setattr(prepare_folder, "shuffle", change)
    refused("has changed while", folder, "--out", tmp_path / "out", *LEAST)
    assert not list((tmp_path / "out").glob("index.json"))
    monkeypatch.setattr(prepare_folder, "shuffle", true)
    prepare(folder, "--out", tmp_path / "out", *LEAST)
    assert (folder / "1.png").read_bytes() in [
        body for parts in samples(tmp_path / "out").values() for body in parts.values()
    ]


def test_full_disk(tmp_path, script):
    folder = write(tmp_path / "p", {f"{n}.png": encoded(photo(n, 200, 160), "png") for n in range(8)})

    def prepare_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))

    arguments = (folder, "--out", tmp_path / "out", "--shard-size", "4", *LEAST)
    code, _, error = script("prepare_folder.py", *arguments, prepare=prepare_limit)
    assert code == 2 and re.search(r"^prepare_folder.py: error: cannot store.*File too large", error, re.M), error
    assert "Traceback" not in error
    assert not [
        path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".") and path.name != "made.json.part"
    ]
    prepare(*arguments)
    prepare(folder, "--out", tmp_path / "fresh", "--shard-size", "4", *LEAST)
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")


def test_killed_again_and_again(tmp_path):
    """SIGKILL in all phases: in the end the shards are those of an undisturbed run."""
    folder = tmp_path / "p"
    write(folder, {f"{n:03d}.png": encoded(photo(n, 400, 300), "png") for n in range(60)})
    options = ["--shard-size", "4", "--least", "16"]
    prepare(folder, "--out", tmp_path / "fresh", *options, "--jobs", "1")
    out = tmp_path / "out"
    program = [sys.executable, str(SCRIPTS / "prepare_folder.py"), str(folder), "--out", str(out), *options]
    moments = [  # while reading, then while writing: when so many lines or shards have appeared
        lambda: (out / ".examined.draft").exists(),
        lambda: list(out.glob("*.tar")),
        lambda: len(list(out.glob("*.tar"))) > 4,
    ]
    kills = 0
    for reached in moments:
        process = subprocess.Popen([*program, "--jobs", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.001)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        assert (out / "made.json").exists() is (process.returncode == 0)
    subprocess.run([*program, "--jobs", "2"], check=True, capture_output=True)
    assert kills >= 2 and digests(out) == digests(tmp_path / "fresh")
    assert (out / "index.json").read_bytes() == (tmp_path / "fresh" / "index.json").read_bytes()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_what_was_read_is_not_read_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "p", {f"{n}.png": encoded(photo(n), "png") for n in range(6)})
    monkeypatch.setattr(prepare_folder, "shuffle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, "--out", tmp_path / "out", *LEAST)
    monkeypatch.undo()
    with (tmp_path / "out" / ".examined.draft").open("a") as journal:
        journal.write('{"path": "5.pn')  # the line during which it was killed
    write(folder, {"2.png": encoded(photo(70), "png")})
    read, true = [], prepare_folder.pixel_digest
    monkeypatch.setattr(prepare_folder, "pixel_digest", lambda path: read.append(path.name) or true(path))
    prepare(folder, "--out", tmp_path / "out", *LEAST)
    assert read == ["2.png"] and len(samples(tmp_path / "out")) == 6
