"""What goes wrong with data files, or may have."""


class DataError(ValueError):
    """Says that a data file is missing or not what it should be, by its name."""


class DataWarning(UserWarning):
    """Says that a data file is not the one that was published, by its name."""
