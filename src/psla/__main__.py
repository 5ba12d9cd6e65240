"""`python -m psla`: the command line, where the console script is not on the path (torchrun, job arrays)."""

from psla.cli import main

main()
