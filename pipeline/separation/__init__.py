"""A mix becomes vocals."""
