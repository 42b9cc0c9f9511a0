"""Fetch Places365, the paper's photographs of places, in the large version (shorter side 512 or as it was, if less).

Four archives, one a run. With ``--limit`` only the beginning of the archive is fetched, as much as holds so many
pictures: it is unpacked as it arrives, and cannot be held against the digest of the whole.
"""

import shutil
from argparse import Namespace
from pathlib import PurePosixPath

from common import (
    Archive,
    Remote,
    Source,
    add_sources,
    address,
    begin,
    by_hand,
    finish,
    make,
    obtain,
    parser,
    print_terms,
    run,
    settle,
    untar,
)

from lama_minimal.config import UserError

_URL = "http://data.csail.mit.edu/places/places365/"
# MD5 as on the download page and in torchvision.datasets.Places365.
ARCHIVES = {
    "train-standard": ("train_large_places365standard.tar", "105 GB", 200 << 30, "67e186b496a84c929568076ed01a8aa1"),
    "train-challenge": ("train_large_places365challenge.tar", "476 GB", 800 << 30, "605f18e68e510c82b958664ea134545f"),
    "val": ("val_large.tar", "2.1 GB", 4 << 30, "9b71c4993ad89d2d8bcbdc4aef38042f"),
    "test": ("test_large.tar", "19 GB", 40 << 30, "41a4b6b724b1d2cd862fb3871ed59913"),
}


def source(split: str) -> Source:
    """Terms and archive of a split."""
    name, about, most, md5 = ARCHIVES[split]
    return Source(
        title=f"Places365 (Zhou et al., TPAMI 2017), {split}, large pictures",
        terms="non-commercial research and education only; MIT does not own the pictures' copyright; cite the paper",
        page="http://places2.csail.mit.edu/download.html",
        archives=(Archive(url=_URL + name, name=name, about=about, most=most, md5=md5),),
    )


def belongs(path: PurePosixPath) -> str | None:
    """data_large/a/airfield/00000001.jpg → images/a/airfield/00000001.jpg; val_large/Places365_val_….jpg → images/."""
    if path.suffix != ".jpg" or len(path.parts) < 2:
        return None
    return str(PurePosixPath("images", *path.parts[1:]))


def fetch_beginning(chosen: Namespace, origin: Source, settings: dict[str, object], following: str) -> None:
    """Make the folder from the first pictures of the archive, unpacked as they arrive."""
    print_terms(origin)
    print(f"only as much is fetched as holds {chosen.limit} pictures, so the published digest cannot be checked")
    if not begin(chosen.out, settings):
        return
    (archive,), unpacked = origin.archives, chosen.out / ".unpacked.draft"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    url = address(archive, chosen.mirror)
    try:
        with Remote(url) as stream:
            untar(stream, url, unpacked / archive.name, limit=archive.most, most=chosen.limit)
    except UserError as error:
        raise UserError(by_hand(error, archive, origin)) from error
    settle(chosen, settings, unpacked, belongs, following)


def keep_tar(chosen: Namespace, origin: Source, settings: dict[str, object]) -> None:
    """Fetch and check the archive, and leave it as it is: training reads a tar without unpacking it."""
    print_terms(origin)
    if not begin(chosen.out, settings):
        return
    path = obtain(origin, origin.archives[0], chosen.archive, chosen.mirror, chosen.out)
    finish(chosen.out, settings, {"archive": path.name}, f"lama-minimal train --data {path} --out runs/places")


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/places365")
    add_sources(options)
    options.add_argument("--split", choices=ARCHIVES, default="val", help="which archive (default: val, the smallest)")
    options.add_argument("--no-unpack", action="store_true", help="check the tar file and leave it as it is")
    chosen = options.parse_args(arguments)
    if chosen.no_unpack and chosen.limit:
        raise UserError("--no-unpack keeps the whole archive: leave out --limit")
    settings = {"set": f"places365 {chosen.split}", "unpacked": not chosen.no_unpack}
    following = f"lama-minimal train --data {chosen.out / 'images'} --out runs/places"
    if chosen.no_unpack:
        keep_tar(chosen, source(chosen.split), settings)
    elif chosen.limit and not chosen.archive:
        fetch_beginning(chosen, source(chosen.split), {**settings, "limit": chosen.limit}, following)
    else:
        make(source(chosen.split), chosen, settings, belongs, following)


if __name__ == "__main__":
    run(main)
