"""One self-contained HTML page: figures inline, tables that sort at a click, legible on a phone and in print."""

import base64
from collections.abc import Sequence
import html

Cells = Sequence[Sequence[str]]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; margin: 0 auto; padding: 0 1rem 3rem; max-width: 60rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
th { cursor: pointer; border-bottom: 2px solid #111; } th:focus { outline: 2px solid #06c; }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0 0 0 1rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { font-size: 15px; } dd { margin-left: 0; } }
"""

# Sorts a table by a column: as numbers where all cells begin with one, otherwise as text.
_SCRIPT = """
for (const head of document.querySelectorAll("th")) {
  head.tabIndex = 0;
  const sort = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const body = head.closest("table").tBodies[0];
    const cell = row => row.cells[head.cellIndex].textContent.trim();
    const rows = [...body.rows];
    const numeric = rows.every(row => !isNaN(parseFloat(cell(row))) || cell(row) === "-");
    const key = row => numeric ? (parseFloat(cell(row)) || -Infinity * (cell(row) === "-") || 0) : cell(row);
    rows.sort((a, b) => (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : 0) * (up ? 1 : -1));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
"""


def html_page(title: str, blocks: Sequence[tuple[str, Cells]]) -> str:
  """The page.

  Args:
    title: of the page.
    blocks: (kind, cells) with kind `heading`, `paragraph`, `answers`, `table` or `picture`.
  """
  body = "\n".join(_BLOCKS[kind](cells) for kind, cells in blocks)
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
  )


def _heading(cells: Cells) -> str:
  return f"<h2>{html.escape(cells[0][0])}</h2>"


def _paragraph(cells: Cells) -> str:
  return f"<p>{html.escape(cells[0][0])}</p>"


def _answers(cells: Cells) -> str:
  pairs = (f"<dt>{html.escape(question)}</dt><dd>{html.escape(answer)}</dd>" for question, answer in cells)
  return f"<dl>{''.join(pairs)}</dl>"


def _table(cells: Cells) -> str:
  head = "".join(f"<th>{html.escape(cell)}</th>" for cell in cells[0])
  rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells[1:])
  body = "".join(f"<tr>{row}</tr>" for row in rows)
  return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(cells: Cells) -> str:
  path, caption = cells[0]
  with open(path, "rb") as file:
    data = base64.b64encode(file.read()).decode("ascii")
  text = html.escape(caption)
  return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


_BLOCKS = {"heading": _heading, "paragraph": _paragraph, "answers": _answers, "table": _table, "picture": _picture}
