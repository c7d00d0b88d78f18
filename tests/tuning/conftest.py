"""Projects with a tracking store, as the tests of tracking make them."""

from tests.tracking.conftest import empty_store, project

__all__ = ["empty_store", "project"]
