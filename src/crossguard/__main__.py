"""`python -m crossguard`: the command line where its script is not on the PATH, and how torchrun starts it."""

from crossguard.cli.app import main

main()
