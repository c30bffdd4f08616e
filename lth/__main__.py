"""`python -m lth` is the command `lth`."""

from lth.cli import main

main()
