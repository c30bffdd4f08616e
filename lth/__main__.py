"""`python -m lth` is the command `lth`."""

from lth.cli import interrupt


def main() -> None:
    """The entry point of the command, which hears signals while it is imported."""
    interrupt.listen()
    from lth.cli import main

    main.main()


if __name__ == "__main__":
    main()
