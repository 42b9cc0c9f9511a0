"""Archives that mean harm, the shared arguments, and published weights put into a folder."""

import bz2
import gzip
import io
import lzma
import re
import resource
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import ade20k_encoder
import big_lama
import camvid
import celeba_hq
import common
import pytest
import torch
from conftest import SCRIPTS, camvid_files, encoded, photo, tar_of, zip_of

from lama_minimal.config import UserError
from lama_minimal.download import PUBLISHED

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference import REFERENCE, draw_weights

PROGRAMS = sorted(path.name for path in SCRIPTS.glob("*.py") if path.name != "common.py")


def refused(pattern, function, *arguments, **options):
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)


def evil_tar(*members, mode="w:gz"):
    """The good files of CamVid, then the given (header fields, content)."""
    file = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(camvid_files()["camvid.tgz"])) as good,
        tarfile.open(fileobj=file, mode=mode) as tar,
    ):
        for member in good:
            tar.addfile(member, good.extractfile(member))
        for fields, content in members:
            header = tarfile.TarInfo()
            for name, value in fields.items():
                setattr(header, name, value)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


EVIL = {
    "parent": ({"name": "camvid/images/../../../escaped.png"}, b"x"),
    "absolute": ({"name": "/tmp/lama-minimal-escaped.png"}, b"x"),
    "backslash": ({"name": "camvid\\..\\..\\escaped.png"}, b"x"),
    "drive": ({"name": "C:escaped.png"}, b"x"),
    "symlink": ({"name": "camvid/images/link.png", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b""),
    "symlinked folder": ({"name": "camvid/more", "type": tarfile.SYMTYPE, "linkname": ".."}, b""),
    "hard link": ({"name": "camvid/images/hard.png", "type": tarfile.LNKTYPE, "linkname": "camvid/codes.txt"}, b""),
    "hard link out": ({"name": "camvid/hard", "type": tarfile.LNKTYPE, "linkname": "../../made.json.part"}, b""),
    "character device": ({"name": "camvid/null", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""),
    "block device": ({"name": "camvid/sda", "type": tarfile.BLKTYPE, "devmajor": 8}, b""),
    "pipe": ({"name": "camvid/pipe", "type": tarfile.FIFOTYPE}, b""),
}


@pytest.mark.parametrize("kind", EVIL)
def test_a_tar_that_means_harm(kind, server, tmp_path, monkeypatch):
    server.files = {"camvid.tgz": evil_tar(EVIL[kind])}
    (small,) = camvid.SOURCE.archives
    monkeypatch.setattr(camvid, "SOURCE", replace(camvid.SOURCE, archives=(replace(small, size=None),)))
    out = tmp_path / "a" / "b" / "out"
    refused("not safe to unpack", camvid.main, ["--out", str(out), "--mirror", server.url])
    seen = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert seen == {f"a/b/out/{n}" for n in ("made.json.part", ".downloads/camvid.tgz", ".downloads/camvid.tgz.sha256")}
    assert not Path("/tmp/lama-minimal-escaped.png").exists()


def link_in_a_zip():
    member = zipfile.ZipInfo("CelebAMask-HQ/CelebA-HQ-img/1.jpg")
    member.external_attr = 0o120777 << 16
    return member


@pytest.mark.parametrize(
    "name",
    ["CelebAMask-HQ/CelebA-HQ-img/../../../1.jpg", "/tmp/lama-minimal-escaped.jpg", "..\\1.jpg", link_in_a_zip()],
)
def test_a_zip_that_means_harm(name, server, tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("CelebAMask-HQ/CelebA-HQ-img/0.jpg", encoded(photo(0)))
        archive.writestr(name, b"/etc/passwd")
    server.files = {"CelebAMask-HQ.zip": file.getvalue()}
    refused("not safe to unpack", celeba_hq.main, ["--out", str(tmp_path / "x" / "out"), "--mirror", server.url])
    assert not list(tmp_path.rglob("*.jpg")) and not Path("/tmp/lama-minimal-escaped.jpg").exists()


def test_bombs(tmp_path):
    """Zeros by the gigabyte: in a file, in a file that is not wanted, in a header, in a sparse file, in a zip."""
    zeros = io.BytesIO()
    with gzip.open(zeros, "wb", 1) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        header = tarfile.TarInfo("bomb.png")
        header.size = 200 << 20
        tar.addfile(header, open("/dev/zero", "rb"))
    (tmp_path / "bomb.tgz").write_bytes(zeros.getvalue())
    assert len(zeros.getvalue()) < 2 << 20
    for top in (None, "elsewhere"):
        refused("more than the 50 MiB", common.unpack, tmp_path / "bomb.tgz", tmp_path / "out", limit=50 << 20, top=top)
    record = b"%d comment=" % 100_000_000 + b"x" * 99_999_000
    long = tarfile.TarInfo("././@PaxHeader")
    long.type, long.size = tarfile.XHDTYPE, len(record)
    (tmp_path / "pax.tgz").write_bytes(gzip.compress(long.tobuf() + record + bytes(10240), 1))
    refused("more than the 50 MiB", common.unpack, tmp_path / "pax.tgz", tmp_path / "out", limit=50 << 20)
    sparse = tarfile.TarInfo("sparse.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"777777777777"  # 64 GiB, of which nothing is stored
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    (tmp_path / "sparse.tar").write_bytes(bytes(block) + bytes(10240))
    refused("sparse file", common.unpack, tmp_path / "sparse.tar", tmp_path / "out", limit=50 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("bomb.png", bytes(60 << 20))
    refused("more than the 50", common.unpack, tmp_path / "bomb.zip", tmp_path / "out", limit=50 << 20)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()


def test_members_that_are_twice_there(tmp_path):
    for mode in ("w:", "w:gz"):
        (tmp_path / "twice.tar").write_bytes(evil_tar(({"name": "camvid/codes.txt"}, b"other"), mode=mode))
        refused("holds 'codes.txt' twice", common.unpack, tmp_path / "twice.tar", tmp_path / "out", limit=1 << 20)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_whole_in_any_packing_and_at_no_shorter_length(pack, tmp_path):
    """Cut at every sixteenth, and between members, where a tar without its end looks complete."""
    files = {"a/1.png": encoded(photo(1), "png"), "a/2.png": encoded(photo(2), "png"), "readme": b"x"}
    plain = tar_of(files, "w:")
    packed = pack(plain)
    (tmp_path / "archive").write_bytes(packed)
    common.unpack(tmp_path / "archive", tmp_path / "out", limit=1 << 20, top="a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        name[2:]: body for name, body in files.items() if name.startswith("a/")
    }
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        between = {member.offset for member in tar} if pack is bytes else set()
    for length in (
        {len(packed) * n // 16 for n in range(16)} | {len(packed) - 1} | (set(between) if pack is bytes else set())
    ):
        if pack is bytes and not any(plain[length:]) and length >= plain.rindex(b"x") + 1024:
            continue  # only the zeros after the end are missing
        (tmp_path / "archive").write_bytes(packed[:length])
        refused("damaged|empty", common.unpack, tmp_path / "archive", tmp_path / "short", limit=1 << 20)
        assert not (tmp_path / "short").exists()


# --- arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_quick_and_complete(program, script):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, printed, error = script(program, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0 and not error
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # of the processor's time
    weights = program in ("ade20k_encoder.py", "big_lama.py")
    assert ("--out" in printed) and all((word in printed) is not weights for word in ("--limit", "--jobs"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_mistakes_are_one_line_and_code_2(program, script, tmp_path):
    (tmp_path / "file").write_text("x")
    source = [tmp_path / "missing"] if program in ("prepare_folder.py", "eval_masks.py") else []
    given = ["--archive", tmp_path / "missing"] if source == [] and program != "make_scenes.py" else []
    code, _, error = script(program, "--out", tmp_path / "file", *source, *given)
    assert code == 2 and error.startswith(f"{program}: error: ") and len(error.splitlines()) == 1
    code, _, error = script(program, *source, "--limit", "0")
    assert code == 2 and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_readme_names_every_program():
    text = (SCRIPTS / "README.md").read_text()
    assert set(re.findall(r"`python data_scripts/(\w+\.py)", text)) == set(PROGRAMS)


# --- weights ---------------------------------------------------------------------------------------------------


def saved(state_dict, **options):
    file = io.BytesIO()
    torch.save(state_dict, file, **options)
    return file.getvalue()


def small_weights(name):
    """A small network in the true format of its file, and its parameters."""
    if name == "ade20k":
        keys = REFERENCE["hrf_resnet18dilated"]["keys"]
        weights = {k: t for k, t in draw_weights(keys, 1000).items() if not k.endswith("num_batches_tracked")}
        file = saved(weights, _use_new_zipfile_serialization=False)
    else:
        keys = REFERENCE["generators"]["fourier"]["keys"]
        state = {f"generator.{key}": tensor for key, tensor in draw_weights(keys, 100).items()}
        file = zip_of({"big-lama/config.yaml": b"x", "big-lama/models/best.ckpt": saved({"state_dict": state})})
    kinds = ("weight", "bias")
    count = sum(torch.Size(shape).numel() for key, shape in keys.items() if key.endswith(kinds))
    return file, count


@pytest.fixture(params=[(ade20k_encoder, "ade20k", "encoder_epoch_20.pth"), (big_lama, "big-lama", "big-lama.zip")])
def weights(request, server, monkeypatch, tmp_path):
    module, name, file = request.param
    body, count = small_weights(name)
    server.files = {file: body}
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], parameters=count))
    target = tmp_path / "out" / (PUBLISHED[name].folder or file)

    def main(*more):
        module.main(["--out", str(tmp_path / "out"), *map(str, more)])

    return main, file, target


def test_weights_arrive_and_load(weights, server, capsys):
    main, _, target = weights
    server.plan = [("cut", 3000), ("status", 500)]
    main("--mirror", server.url)
    printed = capsys.readouterr().out
    assert printed.index("terms:") < printed.index("done:") < printed.index("next: LAMA_MINIMAL_CACHE=")
    assert target.exists() and not [path for path in target.parent.iterdir() if path.name.startswith(".")]
    asked = len(server.requests)
    main("--mirror", server.url)
    assert "nothing to do" in capsys.readouterr().out and len(server.requests) == asked == 3


def test_weights_by_hand_whole_or_not_at_all(weights, server, tmp_path):
    main, file, target = weights
    body, server.files = server.files[file], {}
    refused("404.*by hand", main, "--mirror", server.url)
    for bad in (body[: len(body) // 2], body[:-1], b"", b"<html>"):
        (tmp_path / file).write_bytes(bad)
        refused(".", main, "--archive", tmp_path / file)
        assert not target.exists() and not list(target.parent.rglob(file))
    (tmp_path / file).write_bytes(body)
    main("--archive", tmp_path / file)
    assert target.exists() and (tmp_path / file).read_bytes() == body


def test_another_network_never_takes_the_name(weights, server, monkeypatch):
    main, _, target = weights
    for name in ("ade20k", "big-lama"):
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], parameters=7))
    refused("another network", main, "--mirror", server.url)
    assert not target.exists()
