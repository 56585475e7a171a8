"""Earlier names of the one error of the user."""

from files.errors import UserError

CommandError = UserError
