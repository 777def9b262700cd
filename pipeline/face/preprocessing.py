"""The preprocessing id: every rule and number that decides the pixels of a stored face.

A model carries the id, and evaluation on faces that were made otherwise is refused.
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
        detector, so there what belongs to it is null; frames no margin.
    """
    detection = {
        "detector": detector_id(faces.detector) if source == "video" else None,
        "detect_size": faces.detect_size,
        "threshold": faces.threshold,
        "look": LOOK_RULE,
        "every": faces.every,
        "track": TRACK_RULE,
        "smooth": faces.smooth,
        "max_gap": faces.max_gap,
        "missing": faces.missing,
    }
    made_from: dict[str, Any] = {
        "sampling": SAMPLING_RULES[source],
        "frames": shard.frames,
        "source": source,
        "crop": CROP_RULE,
        "size": shard.size,
        "margin": shard.margin,
        "quality": shard.quality,
        "chroma": shard.chroma,
    }
    if source == "video":
        made_from |= {"picture": PICTURE_RULE, "second_size": faces.second_size} | detection
    else:
        made_from |= {"margin": 0.0} | dict.fromkeys(detection)
    if source == "strips":  # drawn as the pipeline would cut them out of a video
        made_from |= {"margin": shard.margin}
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return {"id": digest[:16], "made_from": made_from}
