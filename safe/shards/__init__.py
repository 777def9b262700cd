"""Tar shards: index and table, verification, the order of an epoch, the loader, the object
store."""
