"""`python -m model.bench NAME`: what is measured, and against what."""
