"""Fetch the CMP Facade Database: 606 rectified house fronts with a label of 12 classes for every pixel."""

from pathlib import PurePosixPath

from common import Archive, Source, add_sources, make, parser, run

_FOLDER = "https://cmp.felk.cvut.cz/~tylecr1/facade/"
SOURCE = Source(
    title="CMP Facade Database (Tyleček and Šára, GCPR 2013): base set, 378 pictures, and extended set, 228",
    terms="as its page and the readme.txt in the archives say; read them first, and cite the paper",
    page=_FOLDER,
    archives=tuple(
        Archive(url=_FOLDER + name, name=name, about=about, most=1 << 30)
        for name, about in (("CMP_facade_DB_base.zip", "about 35 MB"), ("CMP_facade_DB_extended.zip", "about 20 MB"))
    ),
)


def belongs(path: PurePosixPath) -> str | None:
    """base/cmp_b0001.jpg → images/, base/cmp_b0001.png, whose pixels are class numbers, → labels/; no .xml."""
    if path.parent.name in ("base", "extended"):
        return {".jpg": f"images/{path.name}", ".png": f"labels/{path.name}"}.get(path.suffix)
    return path.name if path.name in ("label_names.txt", "readme.txt") else None


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/cmp_facades")
    add_sources(options)
    chosen = options.parse_args(arguments)
    following = f"prepare_folder.py {chosen.out / 'images'} --labels {chosen.out / 'labels'} --out shards/cmp_facades"
    make(SOURCE, chosen, {"set": "cmp_facades"}, belongs, f"python data_scripts/{following}")


if __name__ == "__main__":
    run(main)
