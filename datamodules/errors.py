"""The one error that a user's data or data settings can raise."""


class DatasetError(ValueError):
    """A demo file or a data setting that cannot be used.

    The message is one sentence: the file or key, what was found, what is allowed, and what to do next.
    """
