"""The error of a command: one sentence for the user, exit status 2."""


class CommandError(ValueError):
    """A command line, experiment file or run directory that cannot be used; the message says what to do."""
