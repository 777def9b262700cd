"""SAFE: tar shards of faces in, a model and figures out. Never imports pipeline."""

import os

# onnxruntime from 1.29 on makes a lasting device id and a data base of events under HOME as it is
# imported, and sends them to its maker, unless this is set before. Here, because whatever imports
# it has imported this package, and child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
