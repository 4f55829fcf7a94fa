"""Which songs there are: folders, manifests, lyrics beside and inside audio files."""
