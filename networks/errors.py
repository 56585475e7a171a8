"""The error that a wrong network setting raises."""


class NetworkError(ValueError):
    """A setting or input does not fit a network; the message says what was found and what is allowed."""
