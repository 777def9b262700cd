"""Benchmarks: what docs/performance.md and docs/scale.md say, side by side with the usual way."""
