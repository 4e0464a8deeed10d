"""What a user is meant to read when something is wrong."""


class UserError(ValueError):
    """A problem the user can solve: one sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with status 2, without a traceback.
    """


def sentence(error: UserError | OSError) -> str:
    """Returns the one sentence to print for an error that the user can solve."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}; check the path, its rights and the disk."
    return " ".join(str(error).splitlines())
