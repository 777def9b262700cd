"""Measuring: benchmarks and long fault runs; scripts, imported by nothing but their tests."""
