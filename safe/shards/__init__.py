"""Tar shards: index, verification, the order of an epoch, the loader, the object store."""
