"""Fetch the Describable Textures Dataset: 5,640 pictures of 47 textures, what a network has to continue in a hole."""

from pathlib import PurePosixPath

from common import Archive, Source, add_sources, make, parser, run

SOURCE = Source(
    title="DTD, the Describable Textures Dataset (Cimpoi et al., CVPR 2014)",
    terms="made available to the computer vision community for research purposes; cite the paper",
    page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    archives=(
        Archive(
            url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            name="dtd-r1.0.1.tar.gz",
            about="0.6 GB",
            most=2 << 30,
            size=625_239_812,  # with the SHA-256, from the checksums of TensorFlow Datasets
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",  # from torchvision.datasets.DTD
            sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
        ),
    ),
)


def belongs(path: PurePosixPath) -> str | None:
    """dtd/images/banded/banded_0002.jpg → images/banded/banded_0002.jpg, dtd/labels/train1.txt → splits/train1.txt."""
    if path.parts[:2] == ("dtd", "images") and path.suffix == ".jpg":
        return str(path.relative_to("dtd"))
    if path.parts[:2] == ("dtd", "labels"):
        return f"splits/{path.name}"
    return None


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/dtd")
    add_sources(options)
    chosen = options.parse_args(arguments)
    make(SOURCE, chosen, {"set": "dtd"}, belongs, f"lama-minimal train --data {chosen.out / 'images'} --out runs/dtd")


if __name__ == "__main__":
    run(main)
