"""How do the frames of a clip become a film strip of one face?"""
