"""A model's name becomes checked files and tensors.

`names.py` finds the files of a name: a local path, a hub id, or what ships with the project. `stage_files.py` knows
which files a stage reads, `hub_repositories.py` which repositories the project takes by default. Nothing weaker ever
takes the place of what was asked for.
"""
