"""What goes wrong with data files."""


class DataError(ValueError):
    """A data file that is missing or not what it should be; the message names it."""
