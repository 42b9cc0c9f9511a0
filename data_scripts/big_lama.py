"""Fetch the authors' published network, Big-LaMa, and load it to see that it is whole."""

from common import add_sources, get_weights, parser, run

from lama_minimal.download import cache_folder


def load(name: str) -> object:
    """Build the network from the file; an error says what is wrong with it."""
    from lama_minimal.authors import load_authors_generator

    return load_authors_generator(name)


def main(arguments: list[str] | None = None) -> None:
    """Fetch and load the network."""
    options = parser(__doc__, str(cache_folder()), limit=None)
    add_sources(options)
    options.add_argument("--torchscript", action="store_true", help="the exported file that other tools use")
    chosen = options.parse_args(arguments)
    name = "big-lama-torchscript" if chosen.torchscript else "big-lama"
    following = f"lama-minimal inpaint photo.jpg --mask mask.png --out filled.png --model {name}"
    get_weights(name, chosen, load, following)


if __name__ == "__main__":
    run(main)
