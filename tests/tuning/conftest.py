"""Projects with a tracking store, and servers, as the tests of tracking make them."""

from tests.support.servers import postgres, postgres_server
from tests.tracking.conftest import empty_store, project

__all__ = ["empty_store", "postgres", "postgres_server", "project"]
