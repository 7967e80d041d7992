"""The one kind of error that a user is meant to read."""


class UserError(ValueError):
    """Something that the user gave or lacks: the message names it and says what would be right; no traceback is needed."""
