"""Fetch FFHQ: 70,000 faces, 1024 × 1024, picture by picture as its publisher's own list says, or from an archive.

NVIDIA hands the pictures out through Google Drive, whose daily quota often stops large downloads with a web page: what
has arrived is kept, and the same command goes on another day. The first 60,000 are meant for training.
"""

import json
import shutil
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

from common import Archive, Source, add_sources, begin, finish, make, obtain, parser, print_terms, run
from tqdm import tqdm

from lama_minimal.config import UserError
from lama_minimal.download import fetch_file

DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
TITLE = "FFHQ, Flickr-Faces-HQ (Karras et al., CVPR 2019)"
TERMS = (
    "CC BY-NC-SA 4.0 (NVIDIA); each picture by its Flickr author under CC BY, CC BY-NC, CC0, public domain or as US "
    "government work: non-commercial use with credit, and not for face recognition"
)
PAGE = "https://github.com/NVlabs/ffhq-dataset"
LIST = Source(
    TITLE,
    TERMS,
    PAGE,
    archives=(
        Archive(
            url=f"{DRIVE}16N0RV4fHI6joBuKbQAoG34V_cQk7vxSA",
            name="ffhq-dataset-v2.json",
            about="255 MB, the list of the pictures (1.3 MB each, 89 GB in all; thumbnails 2 GB in all)",
            most=0,
            size=267_793_842,  # with the MD5, from the publisher's download_ffhq.py
            md5="425ae20f06a4da1d4dc0f46d40ba5fd6",
        ),
    ),
)
BY_HAND = Source(TITLE, TERMS, PAGE, archives=(Archive(PAGE, "images1024x1024.zip", "89 GB", most=200 << 30),))


def belongs(path: PurePosixPath) -> str | None:
    """…/00000/00012.png → images/00000/00012.png, whatever folders are around it or missing."""
    if path.suffix != ".png" or not path.stem.isdecimal():
        return None
    return f"images/{int(path.stem) // 1000 * 1000:05d}/{int(path.stem):05d}.png"


def fetch_picture(entry: dict[str, object], folder: Path, mirror: str | None) -> None:
    """Fetch one picture and hold it against the list's size and MD5."""
    target = folder / belongs(PurePosixPath(entry["file_path"]))
    identity = parse_qs(urlsplit(entry["file_url"]).query)["id"][0]
    url = f"{mirror.rstrip('/')}/{entry['file_path']}" if mirror else DRIVE + identity
    try:
        fetch_file(url, target, size=entry["file_size"], md5=entry["file_md5"], progress=False)
    except UserError as error:
        raise UserError(f"{error}; go on later with the same command, or get the zip from {PAGE}: --archive") from error


def fetch_all(entries: list[dict[str, object]], chosen: Namespace) -> Path:
    """Fetch the pictures of the list, ``--jobs`` at a time; returns the folder with all of them."""
    folder = chosen.out / ".fetched.draft"
    with ThreadPoolExecutor(chosen.jobs) as pool:
        waiting = [pool.submit(fetch_picture, entry, folder, chosen.mirror) for entry in entries]
        try:
            for done in tqdm(as_completed(waiting), total=len(waiting), desc="fetching", unit=""):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return folder


def read_list(path: Path, kind: str, limit: int | None) -> list[dict[str, object]]:
    """The first entries of the publisher's list: of "image" (1024 pixels) or "thumbnail" (128)."""
    try:
        entries = json.loads(path.read_bytes())
        return [entries[str(number)][kind] for number in range(min(limit or len(entries), len(entries)))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the list of FFHQ ({error!r}); delete it and fetch it again") from error


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/ffhq")
    add_sources(options)
    options.add_argument("--thumbnails", action="store_true", help="128 × 128 instead of 1024 × 1024")
    chosen = options.parse_args(arguments)
    settings = {"set": "ffhq", "thumbnails": chosen.thumbnails}
    following = f"lama-minimal train --data {chosen.out / 'images'} --out runs/ffhq"
    if chosen.archive:
        return make(BY_HAND, chosen, settings, belongs, following)
    settings["limit"] = chosen.limit
    print_terms(LIST)
    if not begin(chosen.out, settings):
        return
    listed = obtain(LIST, LIST.archives[0], [], chosen.mirror, chosen.out / ".downloads")
    folder = fetch_all(read_list(listed, "thumbnail" if chosen.thumbnails else "image", chosen.limit), chosen)
    if (chosen.out / "images").exists():
        shutil.rmtree(chosen.out / "images")
    (folder / "images").replace(chosen.out / "images")
    finish(chosen.out, settings, {"pictures": len(list(chosen.out.glob("images/*/*.png")))}, following)


if __name__ == "__main__":
    run(main)
