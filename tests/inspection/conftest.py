"""The random model of the export tests."""

from tests.export.conftest import checkpoint, exported

__all__ = ["checkpoint", "exported"]
