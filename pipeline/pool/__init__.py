"""Tasks under guard: killable child processes, and a Dask cluster behind the same call."""
