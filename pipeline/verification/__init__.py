"""Given lines, transcribed words and audio become the lines that are sung."""
