"""Fetch CelebA-HQ: 30,000 faces, 1024 × 1024, of which the paper used 256 × 256 versions."""

from functools import partial
from pathlib import Path, PurePosixPath

from common import (
    Archive,
    Source,
    add_sources,
    files_below,
    is_picture,
    make,
    over_all,
    parser,
    positive,
    run,
    top_folder,
)

SOURCE = Source(
    title="CelebA-HQ (Karras et al., 2018), in the packing of CelebAMask-HQ (Lee et al., CVPR 2020)",
    terms="non-commercial research and education only; no copies to others; no portion to be sold or published",
    page="https://github.com/switchablenorms/CelebAMask-HQ",
    archives=(
        Archive(
            url="https://drive.usercontent.google.com/download"
            "?id=1badu11NqxGf6qM3PTTooQDJvQbejgbTv&export=download&confirm=t",
            name="CelebAMask-HQ.zip",
            about="about 3 GB",
            most=8 << 30,
        ),
    ),
)
TOPS = ("CelebAMask-HQ/CelebA-HQ-img", "data256x256")


def belongs(path: PurePosixPath) -> str | None:
    """0.jpg → images/00000.jpg; the older data256x256.zip counts from 1 in five digits: 00001.jpg is the same face."""
    if path.suffix != ".jpg" or not path.stem.isdecimal():
        return None
    return f"images/{int(path.stem) - (len(path.stem) == 5 and path.parent.name == 'data256x256'):05d}.jpg"


def shrink(path: Path, size: int) -> None:
    """Resize a square picture in place, by area averages, as high-quality JPEG."""
    from PIL import Image

    with Image.open(path) as picture:
        if picture.size != (size, size):
            small = picture.convert("RGB").resize((size, size), Image.Resampling.BOX)
            small.save(path, quality=95, subsampling=0)


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/celeba_hq")
    add_sources(options)
    options.add_argument("--size", type=positive, help="resize to this side (the paper: 256); default: as they are")
    chosen = options.parse_args(arguments)

    def convert(draft: Path) -> None:
        if chosen.size:
            files = [draft / path for path in files_below(draft) if is_picture(path)]
            list(over_all(partial(shrink, size=chosen.size), files, chosen.jobs, "resizing"))

    settings = {"set": "celeba_hq", "size": chosen.size}
    following = f"lama-minimal train --data {chosen.out / 'images'} --out runs/celeba_hq"
    make(SOURCE, chosen, settings, belongs, following, partial(top_folder, candidates=TOPS), convert)


if __name__ == "__main__":
    run(main)
