"""From the frames of a clip to a film strip of one face."""
