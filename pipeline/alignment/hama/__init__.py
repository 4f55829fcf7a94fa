"""A packaged CTC model of phones: network, recogniser, and the sounds of letters."""
