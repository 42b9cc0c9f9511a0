"""``python -m lama_minimal``: the command line."""

from lama_minimal.cli import main

if __name__ == "__main__":
    main()
