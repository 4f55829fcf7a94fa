"""Given words and audio become word times, by CTC models."""
