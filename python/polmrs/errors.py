"""Every exception that polmrs raises. Each also inherits the standard type that fits, so callers need not import these."""


class PolmrsError(Exception):
    """The base of all."""


class UsageError(PolmrsError, ValueError):
    """The call or the command line does not make sense."""


class ConfigError(PolmrsError, ValueError):
    """A configuration breaks a rule; the message names the key, the value and the rule."""


class CheckpointError(PolmrsError, ValueError):
    """A checkpoint is malformed, or does not fit the others."""


class ArrayError(PolmrsError, ValueError):
    """An array argument has the wrong dtype, shape or layout."""


class NotFoundError(PolmrsError, FileNotFoundError):
    """Something named does not exist."""


class OutputExistsError(PolmrsError, FileExistsError):
    """The output is there already, or somebody is writing it."""


class StorageError(PolmrsError, OSError):
    """The operating system refused to read or write; ``errno`` says why."""


class NonFiniteError(PolmrsError, ArithmeticError):
    """A NaN or an infinity where numbers are needed."""


class InternalError(PolmrsError, RuntimeError):
    """A broken promise inside polmrs: please report it."""
