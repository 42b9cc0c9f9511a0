"""Fetch the ADE20K encoder, the network of the paper's perceptual loss, and load it to see that it is whole."""

from common import add_sources, get_weights, parser, run

from lama_minimal.download import cache_folder


def load(name: str) -> object:
    """Build the network from the file; an error says what is wrong with it."""
    from lama_minimal.authors import load_perceptual

    return load_perceptual(name)


def main(arguments: list[str] | None = None) -> None:
    """Fetch and load the network."""
    options = parser(__doc__, str(cache_folder()), limit=None)
    add_sources(options)
    chosen = options.parse_args(arguments)
    get_weights("ade20k", chosen, load, "lama-minimal train --preset lama-fourier --data FOLDER --out runs/mine")


if __name__ == "__main__":
    run(main)
