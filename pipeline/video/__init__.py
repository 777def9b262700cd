"""Video files: container, list of frames, decoding, and a decoded frame as it is seen."""
