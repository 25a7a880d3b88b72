"""The errors that crossguard raises on purpose, so that a caller can tell bad input from a bug."""


class CrossguardError(Exception):
    """Base of all errors raised on purpose; the message says what was found, what was expected, how to mend it."""


class InputError(CrossguardError, ValueError):
    """Tensors, ids or targets that cannot be what the caller meant."""


class ThreatError(CrossguardError, ValueError):
    """A budget or threat model that is impossible, or that does not fit the inputs."""


class ModelError(CrossguardError, ValueError):
    """A model that does not answer as it must (shape, probabilities, no gradient)."""


class RecipeError(CrossguardError, ValueError):
    """A recipe that does not validate; lists every problem with its path."""


class DataError(CrossguardError, ValueError):
    """Files that are missing, truncated or not in the announced format."""


class RunError(CrossguardError, RuntimeError):
    """A run folder that cannot be written, resumed or read."""
