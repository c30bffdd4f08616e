"""The command `lth`: words for people."""
