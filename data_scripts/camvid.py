"""Fetch CamVid: 701 frames of drives through Cambridge, 960 × 720, with a label of 32 classes for every pixel."""

from pathlib import PurePosixPath

from common import Archive, Source, add_sources, make, parser, run

SOURCE = Source(
    title="CamVid, the Cambridge-driving Labeled Video Database (Brostow et al., 2008), as packed by fast.ai",
    terms="its authors ask to cite their two papers and name no licence; ask them before any commercial use",
    page="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/ (packed: https://course.fast.ai/datasets)",
    archives=(
        Archive(
            url="https://s3.amazonaws.com/fast-ai-imagelocal/camvid.tgz",
            name="camvid.tgz",
            about="0.6 GB",
            most=2 << 30,
            size=598_913_237,  # from fastai/data/checks.txt, whose MD5 is one of the first MiB only
        ),
    ),
)


def belongs(path: PurePosixPath) -> str | None:
    """camvid/images/0001TP_006690.png → images/, camvid/labels/0001TP_006690_P.png → labels/0001TP_006690.png."""
    if path.parts[:2] == ("camvid", "images") and path.suffix == ".png":
        return f"images/{path.name}"
    if path.parts[:2] == ("camvid", "labels") and path.name.endswith("_P.png"):
        return f"labels/{path.name.removesuffix('_P.png')}.png"
    return path.name if path.name in ("codes.txt", "valid.txt") else None


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/camvid")
    add_sources(options)
    chosen = options.parse_args(arguments)
    following = f"prepare_folder.py {chosen.out / 'images'} --labels {chosen.out / 'labels'} --out shards/camvid"
    make(SOURCE, chosen, {"set": "camvid"}, belongs, f"python data_scripts/{following}")


if __name__ == "__main__":
    run(main)
