"""Raw videos in, tar shards out. Imports no torch; of safe only labels, config, errors, sample, process."""
