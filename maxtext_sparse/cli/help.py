"""How the commands print their help and their usage errors: plain text of at most 80 columns, in groups.

Typer groups commands and options only with its rich markup, which would swallow the brackets of `[key=value ...]`. The
classes here read the same `rich_help_panel` and print plain text.
"""

from collections.abc import Callable, Iterable
import inspect
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from maxtext_sparse.amounts import meant_share
from maxtext_sparse.errors import print_error

WIDTH = 80
RUN, PLAN, STUDY, CLUSTER = "Run", "Plan", "Study", "Cluster"
LAWS, MODELS, TOOLS = "Laws", "Models", "Tools"
# Titles in the order in which help shows them. Others come before, in the order in which they first appear.
_ORDER = (RUN, PLAN, STUDY, CLUSTER, LAWS, MODELS, TOOLS, "Commands", "Options")
_EXAMPLE = "Example: "
# Typer's names of types -> ours.
_KINDS = {"<str>": "TEXT", "<int>": "N", "<int range>": "N", "<float>": "X", "<float range>": "X"}
# Stand for a hyphen and a space while text is wrapped, so that no line ends in `chinchilla-` or in `[default:`.
_HYPHEN, _SPACE = "\u2011", "\u00a0"
# What Typer says of a number: `'45%' is not a valid float range` or `0 is not in the range x>=1.`
_NO_NUMBER = re.compile(r"'?([^' ]*)'? is not (?:a valid|in the range) .*")
# What Typer puts before a reason: `Invalid value for '--sparsity' / '-s': '80%' `.
_INVALID = re.compile(r"Invalid value for '(-[^']*)'(?: / '[^']*')*: (?:'(.*?)' (?=must be))?")
# Typer raises this for arguments that it cannot parse, and exports only a subclass of it.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


class Command(TyperCommand):
  """A command whose docstring may end in paragraphs `Example: COMMAND`, which are printed ready to be pasted."""

  def get_help(self, ctx: Any) -> str:
    """Returns the whole help."""
    return super().get_help(ctx).replace(_HYPHEN, "-").replace(_SPACE, " ")

  def format_usage(self, ctx: Any, formatter: Any) -> None:
    """Writes the usage. Typer puts braces around a required argument, which elsewhere stand for a choice."""
    pieces = [re.sub(r"^\{(.*?)\}", r"\1", piece) for piece in self.collect_usage_pieces(ctx)]
    pieces = [piece.replace(" ...", f"{_SPACE}...") for piece in pieces]
    formatter.write_usage(ctx.command_path, " ".join(pieces))

  def format_help_text(self, ctx: Any, formatter: Any) -> None:
    """Writes the docstring."""
    del ctx
    write_text(self.help or "", formatter)

  def format_options(self, ctx: Any, formatter: Any) -> None:
    """Writes arguments and options, each option under the title of its panel."""
    write_parameters(self, ctx, formatter)

  def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
    """Refuses an option that is given twice and takes one value; of two values the second would count, unsaid."""
    try:
      _, _, order = self.make_parser(ctx).parse_args(args=list(args))
    except _USAGE_ERROR as error:
      error.ctx = error.ctx or ctx  # an option without its value is told without the command
      raise
    for parameter in order:
      takes_one = parameter.param_type_name == "option" and not parameter.multiple
      if takes_one and order.count(parameter) > 1:
        raise typer.BadParameter("is given twice, keep one", ctx=ctx, param=parameter)
    rest: list[str] = super().parse_args(ctx, args)
    return rest


class GroupedCommands(TyperGroup):
  """A group of commands, and with `main` the place where usage errors become one line."""

  def get_help(self, ctx: Any) -> str:
    """Returns the whole help."""
    return super().get_help(ctx).replace(_HYPHEN, "-").replace(_SPACE, " ")

  def format_help_text(self, ctx: Any, formatter: Any) -> None:
    """Writes the group's help."""
    del ctx
    write_text(self.help or "", formatter)

  def format_options(self, ctx: Any, formatter: Any) -> None:
    """Writes the commands first, because they are what a user looks for, and then the options."""
    self.format_commands(ctx, formatter)
    write_parameters(self, ctx, formatter)

  def format_commands(self, ctx: Any, formatter: Any) -> None:
    """Writes each command with the first sentence of its help, under the title of its panel."""
    commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
    shown = [(name, command) for name, command in commands if command is not None and not command.hidden]
    rows = ((_panel_of(command, "Commands"), (name, _first_sentence(command.help or ""))) for name, command in shown)
    _write_panels(rows, formatter)

  def main(self, *args: Any, **extra: Any) -> Any:
    """Runs the command. Typer's three lines on a bad option become one line, like every other error of ours."""
    try:
      sys.exit(super().main(*args, **(extra | {"standalone_mode": False})))
    except typer.Abort:
      sys.exit("maxtext-sparse: error: interrupted")
    except Exception as error:
      if not isinstance(error, _USAGE_ERROR):
        raise
      _exit_with_usage_error(error)


def new_group(text: str, **settings: Any) -> typer.Typer:
  """Returns an empty group of commands that prints help as this module does."""
  return typer.Typer(
    cls=GroupedCommands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=text,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    **settings,
  )


def add(group: typer.Typer, function: Callable[..., Any], panel: str | None = None, **settings: Any) -> None:
  """Adds a command to a group, under the title `panel`. A command without `cls` prints help as `Command` does."""
  group.command(**({"cls": Command} | settings), rich_help_panel=panel)(function)


def write_text(text: str, formatter: Any) -> None:
  """Writes paragraphs, wrapped. A long example is broken with backslashes, so that it can be pasted into a shell.

  A paragraph `TITLE:` of lines `  NAME: TEXT` becomes a list.
  """
  for paragraph in inspect.cleandoc(text).split("\n\n"):
    title, _, lines = paragraph.partition(":\n")
    if lines.startswith("  "):
      write_list(title, [tuple(line.strip().split(": ", 1)) for line in lines.split("\n")], formatter)
      continue
    formatter.write_paragraph()
    with formatter.indentation():
      if paragraph.startswith(_EXAMPLE):
        _write_command(paragraph, formatter)
      else:
        formatter.write_text(_unbroken(" ".join(paragraph.split())))


def write_list(title: str, rows: Iterable[tuple[str, ...]], formatter: Any) -> None:
  """Writes (name, text) rows below a title."""
  with formatter.section(title):
    formatter.write_dl([(name, _unbroken(text)) for name, text in rows])


def write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
  """Writes the arguments and options of a command, by panel."""
  rows = []
  for parameter in command.get_params(ctx):
    record = parameter.get_help_record(ctx)
    if record is not None:
      default = "Arguments" if parameter.param_type_name == "argument" else "Options"
      rows.append((_panel_of(parameter, default), _in_words(*record)))
  _write_panels(rows, formatter)


def _panel_of(item: Any, default: str) -> str:
  return getattr(item, "rich_help_panel", None) or default


def _write_panels(rows: Iterable[tuple[str, tuple[str, str]]], formatter: Any) -> None:
  """Writes (panel, (name, text)) rows, one panel after the other."""
  panels: dict[str, list[tuple[str, str]]] = {}
  for panel, row in rows:
    panels.setdefault(panel, []).append(row)
  for title, records in sorted(panels.items(), key=lambda panel: _ORDER.index(panel[0]) if panel[0] in _ORDER else -1):
    write_list(title, records, formatter)


def _in_words(name: str, text: str) -> tuple[str, str]:
  """A record of Typer with types as one word, and a range such as `x>=1` as words."""
  for kind, word in _KINDS.items():
    name = name.replace(kind, word)
  text = re.sub(r"([\d.]+)<=x<=([\d.]+)", r"\1 to \2", text)
  return name, re.sub(r"x>=([\d.]+)", r"at least \1", text)


def _unbroken(text: str) -> str:
  text = re.sub(r"(?<=\w)-(?=\w)", _HYPHEN, text)
  return re.sub(r"\[[^\]]*\]$", lambda match: match[0].replace(" ", _SPACE), text)


def _first_sentence(text: str) -> str:
  paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
  return paragraph.partition(". ")[0].rstrip(".") + "."


def _write_command(paragraph: str, formatter: Any) -> None:
  indent = " " * formatter.current_indent
  # An option stays on one line with its value.
  first, *others = re.sub(r" (--?[\w-]+) (?!-)", r" \1\0", " ".join(paragraph.split())).split()
  line = indent + first
  for word in others:
    if len(line) + len(word) + len(" \\ ") > formatter.width:
      formatter.write(f"{line} \\\n".replace("\0", " "))
      line = f"{indent}   "
    line += f" {word}"
  formatter.write(f"{line}\n".replace("\0", " "))


def _exit_with_usage_error(error: Any) -> None:
  """Prints one line and exits with the error's status. The error for a command without arguments is its help."""
  if type(error).__name__ == "NoArgsIsHelpError":
    print(error.format_message(), file=sys.stderr)
  else:
    print_error(_usage_error(error))
  sys.exit(error.exit_code)


def _usage_error(error: Any) -> str:
  """Typer's message in one line: `--mfu=45%: must be a number from 0.001 to 1, write 0.45`."""
  message = _number_in_words(" ".join(error.format_message().split()), error).rstrip(".")
  found = _INVALID.match(message)
  if found:
    return found[1] + (f"={found[2]}" if found[2] is not None else "") + ": " + message[found.end() :]
  command = error.ctx.command_path if error.ctx else "maxtext-sparse"
  return f"{message}; {command} --help shows what there is"


def _number_in_words(message: str, error: Any) -> str:
  """The message, where it is about a number as our options have it: `'45%' must be a number from 0.001 to 1`."""
  kind = getattr(getattr(error, "param", None), "type", None)
  if kind is None or "." in kind.name or not kind.name.startswith(("int", "float")):
    return message
  least, most = (getattr(kind, name, None) for name in ("min", "max"))
  wanted = "a whole number" if kind.name.startswith("int") else "a number"
  if least is not None:
    wanted += f" of at least {least:g}" if most is None else f" from {least:g} to {most:g}"
  share = meant_share if most == 1 else lambda text: ""
  return _NO_NUMBER.sub(lambda match: f"'{match[1]}' must be {wanted}{share(match[1])}", message)
