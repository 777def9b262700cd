"""Raw videos in, tar shards out. Imports no torch."""

import safe  # noqa: F401 - which turns onnxruntime's telemetry off
