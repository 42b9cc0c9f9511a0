"""Fix pictures and masks for evaluation, thin, medium and thick at 256 and 512 pixels, named as the authors' are.

``x.jpg`` becomes ``random_thick_512/x_crop000.png`` with ``random_thick_512/x_crop000_mask000.png``, for each recipe
and size; folders below the given one are kept. As in the authors' code a picture is resized by its shorter side
(bicubic), the mask is drawn over all of it, and a square is cut out at random so that the end of the mask lies in it;
what covers more than half of the square is drawn again. Everything random comes from the seed and the picture's path:
pictures can be added and ``--jobs`` changed without any other mask changing.
"""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from common import MADE, begin, finish, over_all, parser, positive, run

from lama_minimal.config import UserError
from lama_minimal.masks import draw_mask, recipe_for

RECIPES = ("thin", "medium", "thick")
SIZES = (256, 512)


def number_of(*parts: object) -> int:
    """A seed made from anything that can be written down; the same on every machine."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def draw_square(name: str, height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int, np.ndarray]:
    """Draw a mask over a picture and choose its square.

    Args:
        name: recipe, such as "thick".
        height: of the resized picture; it or the width is ``size``.
        width: of the resized picture.
        size: side of the square, pixels.
        rng: where the randomness comes from.

    Returns:
        Top and left of the square, and its mask (size, size) bool, never empty, at most half covered.
    """
    recipe = recipe_for(name, size)
    anywhere = replace(recipe, most_area=1.0)  # the limit holds for the square
    while True:
        mask = draw_mask(anywhere, (height, width), rng)
        corner = []
        for axis, side in enumerate(mask.shape):
            if side == size:
                corner.append(0)
                continue
            end = int(np.flatnonzero(mask.any(axis=1 - axis))[-1])  # last row, or column, of the mask
            first, last = max(0, end + 1 - size), min(end, side - size)
            corner.append(int(rng.integers(first, last, endpoint=True)))
        top, left = corner
        square = mask[top : top + size, left : left + size]
        if 0 < np.count_nonzero(square) <= recipe.most_area * square.size:
            return top, left, np.ascontiguousarray(square)


def save_png(pixels: np.ndarray, target: Path) -> None:
    """Write a picture in one step."""
    from PIL import Image

    draft = target.with_name(f".{target.name}")
    Image.fromarray(pixels).save(draft, format="png")
    draft.replace(target)


def write_tasks(
    path: Path, folder: Path, out: Path, recipes: tuple[str, ...], sizes: tuple[int, ...], seed: int
) -> str:
    """Write the squares and masks of one picture.

    Returns:
        Why it was left out; empty = it was not.
    """
    from PIL import Image

    from lama_minimal.data import read_image

    try:
        pixels, _ = read_image(path)
    except UserError as error:
        return str(error)
    picture, relative = Image.fromarray(pixels), path.relative_to(folder)
    for size in sizes:
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
        for recipe in recipes:
            stem = out / f"random_{recipe}_{size}" / relative.with_suffix("")
            rng = np.random.default_rng(number_of(seed, recipe, size, relative.as_posix()))
            top, left, mask = draw_square(recipe, height, width, size, rng)
            stem.parent.mkdir(parents=True, exist_ok=True)
            save_png(resized[top : top + size, left : left + size], stem.with_name(f"{stem.name}_crop000.png"))
            save_png(mask.astype(np.uint8) * 255, stem.with_name(f"{stem.name}_crop000_mask000.png"))
    return ""


def choose(folder: Path, limit: int | None, seed: int) -> list[Path]:
    """Pictures of a folder; with a limit, a random choice that stays when others come or go.

    Raises:
        UserError: no pictures, or two whose tasks would have the same name.
    """
    from lama_minimal.data import find_images

    found, names = find_images(folder), {}
    for path in found:
        if (other := names.setdefault(path.with_suffix(""), path)) != path:
            raise UserError(f"{other} and {path} would get masks of the same name; rename one of them")
    if limit is None:
        return found
    return sorted(sorted(found, key=lambda path: number_of(seed, path.relative_to(folder).as_posix()))[:limit])


def main(arguments: list[str] | None = None) -> None:
    """Make the folders."""
    options = parser(__doc__, "data/evaluation")
    options.add_argument("folder", type=Path, help="folder of pictures, such as Places' val or test")
    options.add_argument("--masks", nargs="+", choices=RECIPES, default=RECIPES, help="recipes (default: all three)")
    options.add_argument("--sizes", nargs="+", type=positive, default=SIZES, help="sides, pixels (default: 256 512)")
    options.add_argument("--seed", type=int, default=0, help="which masks, squares and choice (default: 0)")
    chosen = options.parse_args(arguments)
    settings = {"folder": str(chosen.folder.resolve()), "masks": list(chosen.masks), "sizes": list(chosen.sizes)}
    settings |= {"seed": chosen.seed, "limit": chosen.limit}
    files = choose(chosen.folder, chosen.limit, chosen.seed)
    if not begin(chosen.out, settings):
        return
    task = partial(
        write_tasks,
        folder=chosen.folder,
        out=chosen.out,
        recipes=chosen.masks,
        sizes=chosen.sizes,
        seed=chosen.seed,
    )
    problems = [problem for problem in over_all(task, files, chosen.jobs, "drawing masks") if problem]
    if problems:
        print(f"{len(problems)} left out, first: {problems[0]}")
    if len(problems) == len(files):
        (chosen.out / f"{MADE}.part").unlink()
        raise UserError(f"none of the pictures in {chosen.folder} can be read")
    tasks = (len(files) - len(problems)) * len(chosen.masks) * len(chosen.sizes)
    result = {"pictures": len(files) - len(problems), "tasks": tasks, "unreadable": len(problems)}
    thick = chosen.out / f"random_{chosen.masks[-1]}_{chosen.sizes[-1]}"
    finish(chosen.out, settings, result, f"lama-minimal inpaint {thick} --out filled/ --model big-lama")


if __name__ == "__main__":
    run(main)
