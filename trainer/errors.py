"""What stops a training or an export."""


class TrainingError(ValueError):
    """Training that cannot start, or cannot go on."""


class ExportError(ValueError):
    """Trained models and data that cannot be exported."""
