"""The one exception a user is meant to read."""


class UserError(ValueError):
    """A problem the user can solve: one sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with status 2, without a traceback.
    """
