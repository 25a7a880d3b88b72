"""The command line: one file a command; the library below prints nothing."""

from crossguard.cli.app import app, main

__all__ = ["app", "main"]
