"""The former name of pipeline.video.decode, for scripts that were written for version 0.1."""

from pipeline.video.decode import Decoded as Decoded
from pipeline.video.decode import read_video as read_video
