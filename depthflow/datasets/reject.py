"""The error of an input that cannot become a sample."""


class RejectError(Exception):
    """Raised for an input that cannot become a sample.

    Attributes:
        reason: Code by which rejects are counted, such as missing_member or no_valid_pixel. Codes are defined where
            they are raised, and in `CHECKS`.
        message: What was found.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.message)
