"""The one error that is the user's to mend."""


class UserError(ValueError):
    """A file, setting or command that cannot be used.

    The message is one sentence: the file or key, what was found, what is allowed, and what to do next. The commands
    print it without a traceback and exit with status 2.
    """
