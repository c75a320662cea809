"""What a command says on stderr: lines for people, or with DEPTHFLOW_LOG_FORMAT=json a JSON object a line.

A record has time, level, logger and message; run_id where a run or a Ray job is known; and what else belongs to it,
such as sample_id. Library code logs with `extra=fields(sample_id=...)`; what people must see in either format goes by
`tell`.
"""

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from depthflow.errors import DepthflowError
from depthflow.observability.safe_text import escape_controls

LOG_FORMAT = "DEPTHFLOW_LOG_FORMAT"
"""The environment variable; Ray's workers get it too."""
FORMATS = ("text", "json")

_FIELDS = "depthflow_fields"


def is_json() -> bool:
    """Whether the environment asks for records."""
    return os.environ.get(LOG_FORMAT) == "json"


def configure_logging(run_id: str | None = None) -> None:
    """Has this process write records to stderr, if the environment asks for them. Python's logging is left alone else.

    Args:
        run_id: the run that all further records belong to; None for the one that was said before.

    Raises:
        DepthflowError: if the environment asks for what there is not.
    """
    asked = os.environ.get(LOG_FORMAT) or "text"
    if asked not in FORMATS:
        raise DepthflowError(f"{LOG_FORMAT} must be {' or '.join(FORMATS)}. Received: {asked}")
    if not is_json():
        return
    root = logging.getLogger()
    before = [handler for handler in root.handlers if isinstance(handler, _RecordHandler)]
    for handler in before:
        run_id = run_id or handler.run_id
        root.removeHandler(handler)
    root.addHandler(_RecordHandler(run_id))
    logging.getLogger("depthflow").setLevel(logging.INFO)
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "ray":  # It and its parts have handlers of their own, in lines.
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True


def has_run() -> bool:
    """Whether this process's records name a run."""
    return any(isinstance(h, _RecordHandler) and h.run_id for h in logging.getLogger().handlers)


def fields(**values: Any) -> dict[str, Any]:
    """What a record has beside its message, for the `extra` of a logging call."""
    return {_FIELDS: values}


def tell(
    message: str,
    values: Mapping[str, Any] | None = None,
    *,
    logger: str = "depthflow",
    level: int = logging.INFO,
) -> None:
    """Tells whoever runs the command: a line on stderr, or a record with these values as its fields."""
    if is_json():
        logging.getLogger(logger).log(level, "%s", message, extra=fields(**(values or {})))
    else:
        print(escape_controls(message), file=sys.stderr, flush=True)


def tell_defect(error: BaseException) -> None:
    """The same of an error that nobody foresaw, with its traceback."""
    if is_json():
        logging.getLogger("depthflow").error("%s: %s", type(error).__name__, error, exc_info=error)
    else:
        traceback.print_exception(error)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Args:
        run_id: of every record that names no other.
    """

    def __init__(self, run_id: str | None = None) -> None:
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            own["traceback"] = self.formatException(record.exc_info)
        known = {"run_id": self._run_id} if self._run_id else {}
        return json.dumps({**own, **known, **_finite(getattr(record, _FIELDS, {})), **own}, default=str)


class _RecordHandler(logging.StreamHandler):
    """Writes records to stderr.

    Attributes:
        run_id: of every record.
    """

    def __init__(self, run_id: str | None) -> None:
        super().__init__(sys.stderr)
        self.run_id = run_id
        self.setFormatter(JsonFormatter(run_id))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """With None for NaN and infinities, which JSON has no numbers for."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
