"""What goes wrong with data files."""


class DataError(ValueError):
    """Says that a data file is missing or not what it should be, by its name."""
