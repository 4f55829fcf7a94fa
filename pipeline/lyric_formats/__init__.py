"""Lyric formats of song generators and players: reading, fitting to what a format can hold, writing.

`document.py` is what they have in common, `formats.py` lists them. A document is first fitted to a format, which says
what is lost; a fitted document is written and read back without any further change.
"""
