"""Vocals become words with times, by a recogniser that does not know the lyrics."""
