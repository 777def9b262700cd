"""Raw videos in, tar shards out. Imports no torch."""
