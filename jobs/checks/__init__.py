"""What jobs need of the machines they run on: one check per thing, and what brings the models there.

`jobs/doctor.py` runs all checks, every job the quick ones, and `jobs/models.py` looks for models and fetches them.
"""
