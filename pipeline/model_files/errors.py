"""What is wrong with a model. Never a fault of a song: a job stops, and no song is blamed."""


class ModelError(Exception):
    """A model that cannot be used. Not a ValueError, so that nothing takes it for a fault of its input."""


class ModelNotFoundError(ModelError):
    """A model that is neither here nor to be had."""


class ModelFileError(ModelError):
    """A file of a model that is damaged, unsafe or of another model."""
