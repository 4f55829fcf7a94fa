"""Synthetic songs with exact truth: a packaged voice sings the project's own lines over a band made with numpy."""
