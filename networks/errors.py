"""The errors that a wrong network setting or a checkpoint that cannot be used raise."""


class NetworkError(ValueError):
    """A setting or input does not fit a network; the message says what was found and what is allowed."""


class CheckpointError(NetworkError):
    """A checkpoint that cannot be written or must not be read; the message says what to do."""
