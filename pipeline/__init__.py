"""One raw song in, one clean encoded song out. No cluster, no training of the song model."""
