"""The errors a user can cause and mend. Everything else is a defect and keeps its traceback."""


class DepthflowError(Exception):
    """A message for the user: what was wrong, what was received, what to do."""


class SourceError(DepthflowError):
    """The raw data cannot be used: missing, empty, or not in DIODE's layout."""


class StoreError(DepthflowError):
    """A sample store cannot be read or written."""


class RegistryError(DepthflowError):
    """A run, model or version that MLflow does not have, or does not have as asked."""


class TrainingError(DepthflowError):
    """Training cannot start, or ended in a way that a retry would not mend."""


class ProtocolError(DepthflowError):
    """An evaluation that its protocol does not allow."""
