"""The database (DESIGN section 3): the only package that knows its driver."""

from melt.store.mongo import MongoStore
from melt.store.threads import Threads

__all__ = ["MongoStore", "Threads"]
