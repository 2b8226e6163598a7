"""Files with the counts after an event, which a run writes and the figures read: names, content, and what is wrong."""

from collections.abc import Mapping
import json
from typing import Any, TYPE_CHECKING

from maxtext_sparse.errors import ConfigError

if TYPE_CHECKING:  # the figures need no MaxText, which brings etils
  import pathlib

  from etils import epath

  type _Path = pathlib.Path | epath.Path

# What a reader relies on, with its types.
_EVENT_TYPES: dict[str, tuple[type, ...]] = {
  "step": (int,),
  "density": (int, float),
  "nonzero_prunable": (int,),
  "threshold": (int, float, type(None)),
  "matrices": (dict,),
}
# Missing in the records of older versions.
_LATER_TYPES: dict[str, tuple[type, ...]] = {"active_sum": (int,)}
# A file that cannot be read, or whose content is not what it should be. JSON that is nested too deeply is the last.
DAMAGES = (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


def read_event_file(path: "_Path", step: int | None = None) -> dict[str, Any]:
  """The record of an event in a file; if `step` is given, it must be of this step.

  Raises:
    ConfigError: the file is damaged.
  """
  try:
    event: dict[str, Any] = json.loads(path.read_text())
    problem = _problem_of_event(event, step)
  except DAMAGES as error:
    problem = reason_of(error)
  if problem:
    raise ConfigError(f"{path}: not an event record ({problem}), restore it or move it away")
  return event


def event_file_name(step: int) -> str:
  """`event_00001200.json` of step 1200."""
  return f"event_{step:08d}.json"


def step_of_name(path: "_Path") -> int:
  """The step that the name of a file says.

  Raises:
    ConfigError: the name is none of ours.
  """
  digits = path.name.removeprefix("event_").removesuffix(".json")
  if not digits.isdecimal() or path.name != event_file_name(int(digits)):
    raise ConfigError(f"{path}: not the name of an event record, such as {event_file_name(1200)}; move it away")
  return int(digits)


def _problem_of_event(event: Mapping[str, Any], step: int | None) -> str | None:
  """What is wrong with a record, None if nothing is."""
  missing = sorted(_EVENT_TYPES.keys() - event.keys())
  if missing:
    return f"without {missing[0]}"
  for key, types in (_EVENT_TYPES | _LATER_TYPES).items():
    value = event.get(key, 0)
    if not isinstance(value, types) or isinstance(value, bool):
      return f"{key}={value!r} is not of type {types[0].__name__}"
  for name, density in event["matrices"].items():
    if not isinstance(density, (int, float)):
      return f"the density of {name} is {density!r}"
  return None if step in (None, event["step"]) else f"step={event['step']}, its name says {step}"


def reason_of(error: Exception) -> str:
  """One line without the path, which the message has already."""
  text = error.strerror if isinstance(error, OSError) else None
  return " ".join((text or str(error)).split()) or type(error).__name__
