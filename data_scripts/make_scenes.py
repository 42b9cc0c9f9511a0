"""Write built-in scenes to disk with a label for every pixel: a labelled data set without any download.

Scene n is the same in every run and for any ``--jobs``, and at any size the same place. None of them is among those
that evaluation draws.
"""

from functools import partial
from pathlib import Path

from common import begin, finish, over_all, parser, positive, run

from lama_minimal.config import UserError
from lama_minimal.scenes import LABELS, SCENE_CLASSES, draw_scene

ON_DISK = 1000
"""First number of the seeds here; the package draws its scenes from others."""


def write_scene(number: int, out: Path, size: int, seed: int, classes: tuple[str, ...]) -> None:
    """Write images/00000012-bricks.png and labels/ of the same name, whose pixels are indices into classes.txt."""
    from PIL import Image

    scene = draw_scene((ON_DISK, seed, number), size, classes[number % len(classes)])
    for folder, pixels in (("labels", scene.labels), ("images", scene.image)):
        target = out / folder / f"{number:08d}-{scene.scene_class}.png"
        draft = target.with_name(f".{target.name}")
        if not target.exists():
            Image.fromarray(pixels).save(draft, format="png")
            draft.replace(target)


def main(arguments: list[str] | None = None) -> None:
    """Make the folder."""
    options = parser(__doc__, "data/scenes", "scenes (default: 2000)")
    options.set_defaults(limit=2000)
    options.add_argument("--size", type=positive, default=256, help="side, pixels (default: 256)")
    options.add_argument("--seed", type=int, default=0, help="which scenes (default: 0)")
    options.add_argument("--classes", nargs="+", default=SCENE_CLASSES, help="scene classes, in turns (default: all)")
    chosen = options.parse_args(arguments)
    if unknown := set(chosen.classes) - set(SCENE_CLASSES):
        raise UserError(f"unknown scene classes {', '.join(sorted(unknown))}; there are {', '.join(SCENE_CLASSES)}")
    if chosen.size < 16 or chosen.seed < 0:
        raise UserError("--size must be at least 16 and --seed at least 0")
    settings = {"set": "scenes", "size": chosen.size, "seed": chosen.seed, "limit": chosen.limit}
    settings["classes"] = list(chosen.classes)
    if not begin(chosen.out, settings):
        return
    for folder in ("images", "labels"):
        (chosen.out / folder).mkdir(exist_ok=True)
    task = partial(write_scene, out=chosen.out, size=chosen.size, seed=chosen.seed, classes=tuple(chosen.classes))
    list(over_all(task, list(range(chosen.limit)), chosen.jobs, "drawing"))
    (chosen.out / "classes.txt").write_text("".join(f"{label}\n" for label in LABELS))
    following = f"prepare_folder.py {chosen.out / 'images'} --labels {chosen.out / 'labels'} --out shards/scenes"
    finish(chosen.out, settings, {"pictures": chosen.limit}, f"python data_scripts/{following}")


if __name__ == "__main__":
    run(main)
