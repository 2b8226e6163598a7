"""The log of a run without a bar: it appears when the run is set up, and not at all if the run is refused before."""

import logging
import sys

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks import listeners
from maxtext_sparse.local import held_log
from maxtext_sparse.local.held_log import held_until_set_up


def say_both():
  print("an answer of MaxText")
  print("a line of its log", file=sys.stderr)


SAID = ("an answer of MaxText\n", "a line of its log\n")


def test_the_log_appears_when_the_run_is_set_up_and_from_then_on_at_once(capsys):
  with held_until_set_up({}):
    say_both()
    assert capsys.readouterr() == ("", "")
    listeners.tell_set_up()
    assert capsys.readouterr() == SAID
    say_both()
    assert capsys.readouterr() == SAID


def test_an_entry_point_that_sets_up_no_run_shows_its_log_at_the_end(capsys):
  with held_until_set_up({}):
    say_both()
  assert capsys.readouterr() == SAID


def test_a_refused_run_leaves_no_log(capsys):
  with pytest.raises(ConfigError), held_until_set_up({}):
    say_both()
    raise ConfigError("the one line")
  assert capsys.readouterr() == ("", "")
  say_both()
  assert capsys.readouterr() == SAID


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_who_interrupts_a_run_wants_to_see_what_it_was_doing(capsys, ending):
  """MaxText's own parser of options ends with SystemExit too, after it has printed why."""
  with pytest.raises(ending), held_until_set_up({}):
    say_both()
    raise ending
  assert capsys.readouterr() == SAID


def test_a_run_that_takes_long_to_set_up_shows_its_log(capsys, monkeypatch):
  monkeypatch.setattr(held_log, "_LONGEST_SECONDS", 0.0)
  with held_until_set_up({}):
    say_both()
    held = sys.stdout, sys.stderr
    for _ in range(1000):
      if all(stream._kept is None for stream in held):
        break
      held_log.threading.Event().wait(0.01)
    assert capsys.readouterr() == SAID


def test_a_handler_that_was_made_in_the_block_works_after_it(capsys):
  with held_until_set_up({}):
    handler = logging.StreamHandler()
  handler.emit(logging.LogRecord("maxtext", logging.INFO, "", 0, "later", None, None))
  assert capsys.readouterr() == ("", "later\n")
