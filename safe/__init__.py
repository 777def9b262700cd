"""SAFE: tar shards of faces in, a model and its metrics out; only safe.api knows of pipeline.

    import safe
    rows = safe.predict("video.mp4", "runs/synthetic")
    model = safe.load_model("runs/synthetic")
    shards = safe.open_shards("data/synthetic/shards")

The three are loaded when they are first used: `import safe` itself imports no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe.api import load_model as load_model
    from safe.api import open_shards as open_shards
    from safe.api import predict as predict

# onnxruntime from 1.29 on makes a lasting device id and a data base of events under HOME as it is
# imported, and sends them to its maker, unless this is set before. Here, because whatever imports
# it has imported this package, and child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ("__version__", "load_model", "open_shards", "predict")
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'safe' has no attribute {name!r}")
    return getattr(import_module("safe.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
