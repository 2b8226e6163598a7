"""A report as a list of blocks, written as report.md with tables and figures beside it, and as one report.html."""

from collections.abc import Sequence
import csv
import dataclasses
import io
import os

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.reports.page import Cells, html_page
from maxtext_sparse.runs.files import replace_text


@dataclasses.dataclass(frozen=True)
class Heading:
  text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
  text: str


@dataclasses.dataclass(frozen=True)
class Answers:
  """Questions and answers, such as a checklist: pairs of text."""

  pairs: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class DataTable:
  """A table that is also written as tables/NAME.csv.

  Attributes:
    name: of the file.
    columns: heads.
    rows: cells as text.
  """

  name: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure that has been saved as PNG and SVG.

  Attributes:
    path: of the PNG.
    caption: what it shows.
  """

  path: str
  caption: str


Block = Heading | Paragraph | Answers | DataTable | Picture


@dataclasses.dataclass(frozen=True)
class Document:
  """A report.

  Attributes:
    title: of the page.
    blocks: in order.
  """

  title: str
  blocks: Sequence[Block]

  def write(self, folder: str) -> list[str]:
    """Writes report.md, report.html and tables/*.csv, and returns their paths.

    Raises:
      ConfigError: the folder cannot be written.
    """
    files = {os.path.join(folder, "report.md"): self.to_markdown(folder)}
    files[os.path.join(folder, "report.html")] = html_page(self.title, [_html(block) for block in self.blocks])
    for block in self.blocks:
      if isinstance(block, DataTable):
        files[os.path.join(folder, "tables", f"{block.name}.csv")] = _csv(block)
    try:
      for path, text in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_text(path, text)
    except OSError as error:
      raise ConfigError(f"--report={folder}: cannot write ({error.strerror or error})") from error
    return list(files)

  def to_markdown(self, folder: str) -> str:
    """The report as Markdown, with links relative to its folder."""
    return "\n\n".join([f"# {self.title}", *(_markdown(block, folder) for block in self.blocks)]) + "\n"


def _markdown(block: Block, folder: str) -> str:
  match block:
    case Heading(text):
      return f"## {text}"
    case Paragraph(text):
      return text
    case Answers(pairs):
      return "\n".join(f"- **{question}** {answer}" for question, answer in pairs)
    case Picture(path, caption):
      return f"![{caption}]({os.path.relpath(path, folder)})\n\n*{caption}*"
    case DataTable(name, columns, rows):
      lines = [_row(columns), _row(["---"] * len(columns)), *map(_row, rows)]
      return "\n".join(lines) + f"\n\n[tables/{name}.csv](tables/{name}.csv)"


def _row(cells: Sequence[str]) -> str:
  return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html(block: Block) -> tuple[str, Cells]:
  """The kind of a block and its contents, for `html_page`."""
  match block:
    case Heading(text):
      return "heading", [[text]]
    case Paragraph(text):
      return "paragraph", [[text]]
    case Answers(pairs):
      return "answers", [list(pair) for pair in pairs]
    case Picture(path, caption):
      return "picture", [[path, caption]]
    case DataTable(_, columns, rows):
      return "table", [list(columns), *(list(row) for row in rows)]


def _csv(table: DataTable) -> str:
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
  return buffer.getvalue()
