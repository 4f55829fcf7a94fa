"""One song from file to record: the order of steps, checks, records and the report."""
