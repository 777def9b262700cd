"""SAFE: tar shards of faces in, a model and figures out. Never imports pipeline."""
