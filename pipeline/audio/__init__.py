"""A file becomes samples, and samples become figures: level, loudness, landmarks."""
