"""What stops a training."""


class TrainingError(ValueError):
    """Training that cannot start, or cannot go on."""
