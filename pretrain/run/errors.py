"""The errors a person is meant to read.

Invariant: a `KeyeError` names what went wrong, where, and how to mend it, and the command line
prints its text without a traceback. Every other exception is a defect and keeps its traceback.
"""


class KeyeError(Exception):
    """A failure that the user can mend; its text names what, where and the fix."""


class ConfigError(KeyeError):
    """A configuration key or value that cannot be used; its text names the key and the value."""
