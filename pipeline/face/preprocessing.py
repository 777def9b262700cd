"""What decides the pixels of a stored face, and under which id?

Settings go in; a record of every rule and number that made the faces, and a short id of it, come
out. A model carries the id, and evaluation on faces that were made otherwise is refused.
"""

import hashlib
import json
from typing import Any, Final

from pipeline.face.crop import CROP_RULE
from pipeline.face.detect import LOOK_RULE, detector_id
from pipeline.face.track import TRACK_RULE
from pipeline.video.decode import Source
from pipeline.video.picture import PICTURE_RULE
from safe.config import Faces, Shard

SAMPLING_RULES: Final[dict[Source, str]] = {
    "video": "segment-centres-of-time-2",
    "frames": "segment-centres-of-numbers-2",
    "strips": "segment-centres-1",
}
"""Names of how decode.py chooses frames; to be changed when others come out."""


def preprocessing(source: Source, *, faces: Faces, shard: Shard) -> dict[str, Any]:
    """Say what decides the pixels of a stored face.

    Returns:
        `made_from`, every rule and number that does, and `id`, the first 16 hex digits of the
        sha256 of its canonical JSON. Face crops (`source` frames or strips) pass no
        detector, so there what belongs to it is null.
    """
    detects = source == "video"
    made_from = {
        "sampling": SAMPLING_RULES[source],
        "frames": shard.frames,
        "source": source,
        **({"picture": PICTURE_RULE, "second_size": faces.second_size} if detects else {}),
        "detector": detector_id(faces.detector) if detects else None,
        "detect_size": faces.detect_size if detects else None,
        "threshold": faces.threshold if detects else None,
        "look": LOOK_RULE if detects else None,
        "every": faces.every if detects else None,
        "track": TRACK_RULE if detects else None,
        "smooth": faces.smooth if detects else None,
        "max_gap": faces.max_gap if detects else None,
        "missing": faces.missing if detects else None,
        "crop": CROP_RULE,
        "size": shard.size,
        "margin": shard.margin if detects else 0.0,
        "quality": shard.quality,
        "chroma": shard.chroma,
    }
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return {"id": digest[:16], "made_from": made_from}
