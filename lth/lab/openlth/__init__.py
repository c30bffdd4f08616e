"""Runs of OpenLTH, imported: opened, reported, branched and continued as ours are."""

from lth.lab.openlth.importing import Imported, import_run

__all__ = ["Imported", "import_run"]
