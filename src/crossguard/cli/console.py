"""What the commands say: results on stdout, everything else on stderr, errors in plain words with an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer
from rich.console import Console

from crossguard.core.errors import CrossguardError, DataError, InputError, RecipeError, ThreatError

OK, FAILED, INVALID, INTERRUPTED = 0, 1, 2, 130
# What a person gave, as against a run that failed on the way.
GIVEN = (RecipeError, DataError, InputError, ThreatError)

# What is printed may hold names of the user's: "[noise]" is no markup there, ":key:" no picture of a key.
results = Console(highlight=False, markup=False, emoji=False)
messages = Console(stderr=True, highlight=False, markup=False, emoji=False)
P = ParamSpec("P")


def debug() -> bool:
    """Whether tracebacks are wanted."""
    return bool(os.environ.get("CROSSGUARD_DEBUG"))


def say(text: str) -> None:
    """One line of progress, on stderr."""
    messages.print(text, soft_wrap=True)


def complain(text: str) -> None:
    """An error, on stderr, without colour or wrapping: it may be piped."""
    print(f"error: {text}", file=sys.stderr)


def _refused(error: OSError) -> str:
    """What the system did not let the program do, where, and what can be done about it."""
    where = "the system said" if error.filename is None else str(error.filename)
    return (
        f"{where}: {error.strerror or error}; see that the place is there, that you may read it (and write, where "
        f"something is written) and that its disk has room, or give another one (`crossguard --debug …` shows all)"
    )


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command that ends with 0, 1 (a run failed), 2 (invalid input) or 130 (Ctrl-C), and shows no traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            complain("interrupted; what is finished is kept, the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
        except CrossguardError as error:
            if debug():
                raise
            complain(str(error))
            raise typer.Exit(INVALID if isinstance(error, GIVEN) else FAILED) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except OSError as error:
            if debug():
                raise
            complain(_refused(error))
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if debug():
                raise
            complain(
                f"{type(error).__name__}: {error}\nThis is a fault of the program; `crossguard --debug …` says where"
            )
            raise typer.Exit(FAILED) from None

    return run
