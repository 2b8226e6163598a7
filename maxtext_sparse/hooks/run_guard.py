"""What surrounds a run: one process at a time in its folder, a stop that keeps the work, and failures in one line.

`require_completion` opens the contexts around MaxText's train loop, `observe_steps` asks after each step whether to stop.
Neither changes what is computed.
"""

from collections.abc import Iterator
import contextlib
import errno
import logging
import os
import signal
import threading
from typing import Any

from etils import epath
import jax

from maxtext_sparse.errors import InterruptError, RunError, StoppedError
from maxtext_sparse.runs.files import folder_lock

logger = logging.getLogger("maxtext_sparse")

# Frames of these packages in a traceback say that a checkpoint was being read.
_CHECKPOINT_PACKAGES = ("/orbax/", "/tensorstore/")
_LONGEST_REASON = 200
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

# The signal that asked this process to stop, and the last step that it has trained.
_asked: signal.Signals | None = None
_last_step: int | None = None


def run_folder(config: Any) -> str | None:
  """The folder of a run on a local disk, None if it has none or it is in a bucket."""
  if not (config.base_output_directory and config.run_name) or "://" in config.base_output_directory:
    return None
  return os.path.join(str(config.base_output_directory), str(config.run_name))


@contextlib.contextmanager
def alone(config: Any) -> Iterator[None]:
  """Makes this process the only one that trains the run. Two would mix their metrics and replace their checkpoints.

  Raises:
    ConfigError: another process trains it.
    RunError: the folder cannot be written.
  """
  folder = run_folder(config)
  if folder is None or jax.process_index() != 0:
    yield
    return
  refusal = f"run_name={config.run_name}: another process trains this run in {folder}; wait for it, or give another name"
  with contextlib.ExitStack() as stack:
    try:
      os.makedirs(folder, exist_ok=True)
      stack.enter_context(folder_lock(folder, refusal))
    except OSError as error:
      raise RunError(f"base_output_directory={folder}: cannot write there ({error.strerror})") from error
    yield


@contextlib.contextmanager
def stoppable(config: Any) -> Iterator[None]:
  """Ends the run after the current step, with a checkpoint, on Ctrl-C or SIGTERM. The second Ctrl-C ends it at once.

  Raises:
    StoppedError: it was stopped; says how to go on.
  """
  global _asked, _last_step
  _asked = _last_step = None
  with _handlers():
    yield
  if _asked is not None:
    _raise_stopped(config)


def asked_to_stop(step: int) -> str | None:
  """Notes that a step is done, and returns the name of the signal that asked for a stop, or None."""
  global _last_step
  _last_step = step
  return None if _asked is None else _SIGNALS[_asked]


def last_step() -> int | None:
  """The last step that this process has trained, None before the first one."""
  return _last_step


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
  # A process of a cluster has MaxText's own handler of SIGTERM, under which all processes stop at the same step.
  signals = (signal.SIGINT,) if jax.distributed.is_initialized() else tuple(_SIGNALS)
  if threading.current_thread() is not threading.main_thread():
    signals = ()
  before = {number: signal.signal(number, _note) for number in signals}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _note(number: int, frame: Any) -> None:
  global _asked
  del frame
  if _asked is not None:
    raise KeyboardInterrupt
  _asked = signal.Signals(number)
  logger.warning("stopping after this step; the next Ctrl-C stops at once")


def _raise_stopped(config: Any) -> None:
  assert _asked is not None
  where = f"after step {_last_step}" if _last_step is not None else "before its first step"
  advice = "the same command goes on from there"
  if not config.enable_checkpointing or _last_step is None:
    advice = "there is no checkpoint of it (enable_checkpointing=False)" if _last_step is not None else "start it again"
  kind = InterruptError if _asked == signal.SIGINT else StoppedError
  raise kind(f"steps={config.steps}: training stopped {where} ({_SIGNALS[_asked]}); {advice}")


@contextlib.contextmanager
def explained(config: Any) -> Iterator[None]:
  """Turns a full disk into one line, wherever MaxText meets it.

  Raises:
    RunError: the disk is full.
  """
  try:
    yield
  except Exception as error:
    reasons = [reason for link in _chain(error) if (reason := _why_full(link))]
    if isinstance(error, RunError) or not reasons:
      raise
    place = f"base_output_directory={run_folder(config) or config.base_output_directory}"
    if config.metrics_file in [getattr(link, "filename", None) for link in _chain(error)]:
      place = f"metrics_file={config.metrics_file}"
    next_step = "the same command goes on from the last checkpoint" if config.enable_checkpointing else "start it again"
    raise RunError(f"{place}: the disk is full ({reasons[0]}); make room, and {next_step}") from error


@contextlib.contextmanager
def damage_named(config: Any) -> Iterator[None]:
  """Turns the failure to read the last checkpoint into one line, with the checkpoint before it.

  Raises:
    RunError: the last checkpoint cannot be read.
  """
  try:
    yield
  except Exception as error:
    steps = saved_steps(config.checkpoint_dir)
    if not steps or not any(_is_from_a_checkpoint(link) for link in _chain(error)):
      raise
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    last = os.path.join(config.checkpoint_dir, str(steps[-1]))
    before = f"then goes on from the checkpoint of step {steps[-2]}" if len(steps) > 1 else "then begins anew"
    raise RunError(
      f"{last}: this checkpoint cannot be read with these keys ({reason}); if it is damaged, move it away and give the "
      f"same command: the run {before}"
    ) from error


def is_finished(error: RuntimeError, config: Any) -> bool:
  """Whether MaxText's error says that the run has trained all its steps, no more and no fewer."""
  return f"up to step {config.steps}, but a checkpoint already exists at step {config.steps - 1} " in str(error)


def saved_steps(checkpoint_dir: str) -> list[int]:
  """Steps of the checkpoints in a folder, in ascending order."""
  folder = epath.Path(checkpoint_dir) if checkpoint_dir else None
  if folder is None or not folder.exists():
    return []
  return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())


def _chain(error: BaseException) -> Iterator[BaseException]:
  """The error, and what it came from."""
  link: BaseException | None = error
  while link is not None:
    yield link
    link = link.__cause__ or link.__context__


def _why_full(error: BaseException) -> str | None:
  """What the system says where no more can be written; tensorstore has it within its own messages."""
  texts = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
  return next((text for text in texts if text in str(error)), None)


def _is_from_a_checkpoint(error: BaseException) -> bool:
  frame = error.__traceback__
  while frame is not None:
    if any(name in frame.tb_frame.f_code.co_filename for name in _CHECKPOINT_PACKAGES):
      return True
    frame = frame.tb_next
  return False
