"""How do the frames of a clip and its boxes become a film strip of faces?"""

import numpy as np
from numpy.typing import NDArray

from pipeline.decode import Decoded, Source
from pipeline.face.crop import crop_faces
from pipeline.face.face_table import ClipFaces
from safe.config import Shard
from safe.sample import encode_strip


def make_strip(decoded: Decoded, face: ClipFaces, *, source: Source, settings: Shard) -> bytes:
    """Return the faces of a decoded clip as one JPEG, below one another."""
    faces = cut_faces(decoded, face, source=source, settings=settings)
    return encode_strip(faces, settings.quality, settings.chroma)


def cut_faces(
    decoded: Decoded, face: ClipFaces, *, source: Source, settings: Shard
) -> NDArray[np.uint8]:
    """Cut the faces of a decoded clip out: uint8 [T, size, size, 3], RGB.

    Only a box round a detected face gets a margin: a centre square and a release's own crop do not.
    """
    has_face_box = source == "video" and face.status != "missing"
    boxes = np.array(face.box, dtype=np.float32)
    margin = settings.margin if has_face_box else 0.0
    return crop_faces(decoded.frames, boxes, size=settings.size, margin=margin)
