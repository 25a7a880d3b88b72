"""`python -m crossguard.cli`, which is how torchrun starts it."""

from crossguard.cli.app import main

main()
