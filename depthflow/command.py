"""Runs a command: parses its flags, prints its result as one JSON line, and returns the exit code."""

import inspect
import json
import logging
import math
import os
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import tyro

from depthflow.errors import DepthflowError, full_disk_reported
from depthflow.observability.logs import configure_logging, tell, tell_defect
from depthflow.observability.noise import hide_noise
from depthflow.observability.safe_text import streams_without_credentials

FLAG_STYLE = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_REJECTS = 3
"""The result is complete and usable, but some inputs were rejected: see its rejects."""


class ParserExit(SystemExit):
    """tyro has printed help (code 0), or what is wrong with a command line."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM in a command that needs another flag to continue where it was.

    Args:
        flag: The flag, for example `--resume`.
    """

    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        self.flag = flag


def run_command(
    main: Callable[..., dict[str, Any]], description: str | None, arguments: Sequence[str] | None = None
) -> int:
    """Parses the command line into `main`'s dataclasses, runs it, and prints its result as the last line on stdout.

    Args:
        main: Function of dataclasses that returns the command's result. A DepthflowError is reported in one line, any
            other error with its traceback.
        description: Text for --help.
        arguments: Command line. Defaults to that of the process.

    Returns:
        The exit code: 0; 1 if the command failed; 2 for a wrong flag; 3 (`EXIT_REJECTS`) if the result has rejects;
        130 if SIGINT ended it, 143 if SIGTERM did.
    """
    os.environ["MPLBACKEND"] = "agg"  # Plots go to files. A notebook's backend fails in any other process.
    with streams_without_credentials():
        return _run(main, description, arguments)


def _run(main: Callable[..., dict[str, Any]], description: str | None, arguments: Sequence[str] | None) -> int:
    try:
        with _interrupted_by() as signals:
            result, code = _outcome(main, description, arguments)
    except ParserExit as error:
        if error.code:
            _print_json({"status": "failed", "error": "The command line was not understood: see the message above."})
        return EXIT_USAGE if error.code else 0
    if signals and code:
        code = 128 + signals[0]
    _print_json(result)
    return code


def _outcome(
    main: Callable[..., dict[str, Any]], description: str | None, arguments: Sequence[str] | None
) -> tuple[dict[str, Any], int]:
    """Runs the command, and returns its result, or an error, and the exit code."""
    try:
        configure_logging()
        prog = Path(sys.argv[0]).name  # With the whole path, help would not fit the terminal.
        configs = _parse(main, arguments, prog=prog, description=description)
        if not any(getattr(config, "verbose", False) for config in configs.values()):
            hide_noise()
        with full_disk_reported():
            result = _with_status(main(**configs))
        return result, EXIT_REJECTS if result["status"] == "rejects" else 0
    except KeyboardInterrupt as error:
        flags = [error.flag] if isinstance(error, Interrupted) and error.flag not in sys.argv else []
        line = shlex.join(["python", *sys.argv, *flags])
        return _failed(f"Interrupted. To continue: {line}"), EXIT_INTERRUPTED
    except DepthflowError as error:
        tell(f"error: {error.lines[0]}", error.details, level=logging.ERROR)
        for line in error.lines[1:]:
            tell(line, level=logging.ERROR)
        return {**error.details, **_failed(str(error))}, error.exit_code
    except ParserExit:  # Of a command line within this one.
        raise
    except (Exception, SystemExit) as error:
        tell_defect(error)
        return _failed(f"{type(error).__name__}: {error}"), 1


def _failed(error: str) -> dict[str, Any]:
    return {"status": "failed", "error": error}


@contextmanager
def _interrupted_by() -> Iterator[list[signal.Signals]]:
    """Raises KeyboardInterrupt on SIGINT and SIGTERM in the block, and lists them: Ray replaces the exception."""
    received: list[signal.Signals] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    with preserve_signal_handlers():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # A shell's background jobs ignore Ctrl-C.
                signal.signal(number, interrupt)
        yield received


@contextmanager
def preserve_signal_handlers() -> Iterator[None]:
    """Restores the handlers of SIGINT and SIGTERM at the end of the block.

    `ray.init` installs a SIGTERM handler that dumps the stack. Ray Train installs a SIGINT handler that aborts its own
    run instead of raising KeyboardInterrupt. Neither removes it.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def call_command(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs another command in this process and returns its result, as its last line would have it.

    Raises:
        DepthflowError: if the command fails.
        ParserExit: for wrong flags.
    """
    module = runpy.run_path(str(script), run_name=script.stem)
    try:
        result = module["main"](**_parse(module["main"], arguments, prog=script.name))
    except Interrupted:
        raise KeyboardInterrupt from None  # The flag is not the caller's.
    return _plain(_with_status(result))


def parse_command(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Parses a command line without running the command, and returns the arguments of its `main` by name.

    Raises:
        ParserExit: for --help and for wrong flags, as the command itself does.
    """
    module = runpy.run_path(str(script), run_name=script.stem)
    return _parse(module["main"], arguments, prog=script.name, description=module["__doc__"])


def _parse(main: Callable[..., Any], arguments: Sequence[str] | None, **options: Any) -> dict[str, Any]:
    """Returns the arguments of `main` by name; raises ParserExit for --help and for wrong flags."""
    signature = inspect.signature(main)

    def named(*given: Any, **others: Any) -> dict[str, Any]:
        return dict(signature.bind(*given, **others).arguments)

    hints = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    if len(hints) == 1:  # Its docstring says the same as the description.
        hints = {name: Annotated[hint, tyro.conf.arg(help="")] for name, hint in hints.items()}
    vars(named).update(__signature__=signature)
    named.__annotations__ = hints
    try:
        return tyro.cli(named, args=arguments, config=FLAG_STYLE, **options)
    except SystemExit as error:
        raise ParserExit(error.code) from None


def last_json_line(output: str) -> dict[str, Any] | None:
    """Returns a command's result: the last line that is a JSON object with a status, or None.

    If the output includes stderr, log events may follow that line.
    """
    for line in reversed(output.splitlines()):
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if isinstance(result, dict) and "status" in result:
            return result
    return None


def _with_status(result: dict[str, Any]) -> dict[str, Any]:
    return {"status": "rejects" if result.get("rejects") else "ok", **result}


def _print_json(result: dict[str, Any]) -> None:
    sys.stderr.flush()
    print(json.dumps(_plain(result), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """Returns the value with NaN and infinities, which JSON cannot hold, replaced by None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
