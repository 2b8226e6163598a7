"""The comparison as tables."""

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

from maxtext_sparse.inference.break_even import against_rivals
from maxtext_sparse.inference.comparison import DENSE, OURS, PROMPTS, VARIANTS
from maxtext_sparse.terminal import new_table, print_table, say, short

if TYPE_CHECKING:
  from rich.console import Console

COLUMNS = (
  "",
  "tokens/s",
  "95 % interval",
  "limit",
  *(f"{n} token{'s' * (n > 1)}, ms" for n in PROMPTS),
  "resident, MB",
  "weights, MB",
)


def print_result(result: Mapping[str, Any], console: "Console") -> None:
  """A table of the variants and what is to be known about it, a line each."""
  say(console, f"{result['folder']}: {short(result['parameters'])} parameters, density {result['density']:.3f}")
  table = new_table(COLUMNS)
  for row in rows(result):
    table.add_row(*row)
  print_table(console, table)
  for line in remarks(result):
    say(console, line)


def rows(result: Mapping[str, Any]) -> list[list[str]]:
  """One row a variant, in the order of `COLUMNS`."""
  return [
    [
      name.replace("_", " "),
      f"{result['tokens_per_second'][name]:.1f}",
      "{:.1f} to {:.1f}".format(*result["tokens_per_second_interval"][name]),
      f"{result['limit_tokens_per_second'][name]:,.1f}",
      *(f"{result['prompt_milliseconds'][name][str(n)]:,.0f}" for n in PROMPTS),
      _megabytes(result["resident_bytes"][name]),
      _megabytes(result["weight_bytes"][name]),
    ]
    for name in VARIANTS
  ]


def _megabytes(num_bytes: float) -> str:
  """1,598, or 0.11 for a small model."""
  megabytes = num_bytes / 1e6
  return f"{megabytes:,.0f}" if megabytes >= 10 else f"{megabytes:.2g}"


def remarks(result: Mapping[str, Any]) -> list[str]:
  """What a reader must know to believe the table."""
  machine = result["machine"]
  lines = [
    f"machine: {machine['processor']}, {machine['instruction_set']}, cores {machine['cpus']} of {machine['cores']}, "
    f"reads {machine['bytes_per_second'] / 1e9:.1f} GB/s, load {machine['load']}",
    f"tokens/s: median of {result['rounds']} turns of {result['tokens_a_round']} tokens, batch 1; limit: bytes of the "
    f"linear layers over the read speed; the libraries take {result['libraries_bytes'] / 1e6:,.0f} MB more",
  ]
  lines += _speed_lines(result)
  lines += [_break_even_line(name, density) for name, density in result["break_even_densities"].items()]
  lines += _masked_lines(result)
  lines.append(_token_line(result))
  sizes = [f"{name.replace('_', ' ')} {gap:.2g}" for name, gap in result["logits_difference"].items() if gap]
  lines.append(
    f"largest difference of logits to dense fp32 (logits up to {result['logits_size']:.3g}): {', '.join(sizes)}"
  )
  if not result["is_interleaved"]:
    lines.append("NOT INTERLEAVED: there was no memory for all variants at once")
  loose = [name for name, is_pinned in result["is_pinned"].items() if not is_pinned]
  if loose:
    lines.append(f"NOT PINNED: threads of {', '.join(loose)} were not each on a core of its own")
  return lines


def _speed_lines(result: Mapping[str, Any]) -> list[str]:
  speeds = result["tokens_per_second"]
  pairs = [("sparse_bf16", "dense_bf16"), ("sparse_bf16", "dense_fp32"), ("sparse_int8", "dense_int8")]
  pairs.append(("sparse_int8", "torch_csr"))
  lines = [
    f"{ours.replace('_', ' ')} generates {speeds[ours] / speeds[other]:.2f}x as fast as {other.replace('_', ' ')}"
    for ours, other in pairs
  ]
  return lines + [_prompt_line(result["prompt_milliseconds"], n) for n in PROMPTS]


def _prompt_line(milliseconds: Mapping[str, Mapping[str, float]], num_tokens: int) -> str:
  """The quicker of ours against the quickest dense form, also where it loses."""
  ours, dense = (min(names, key=lambda name: milliseconds[name][str(num_tokens)]) for names in (OURS, DENSE))
  ratio = milliseconds[dense][str(num_tokens)] / milliseconds[ours][str(num_tokens)]
  what = f"a prompt of {num_tokens} token{'s' * (num_tokens > 1)}"
  return f"{what}: {ours.replace('_', ' ')} is {ratio:.2f}x as fast as {dense.replace('_', ' ')}, the quickest dense form"


def _break_even_line(name: str, density: float | None, what: str = "one product") -> str:
  against = "the fastest dense" if name == "sparse_int8" else "the faster of dense fp32 and bf16"
  if density is None:
    return f"{what}: {name.replace('_', ' ')} is slower than {against} at every density that was measured"
  return f"{what}: {name.replace('_', ' ')} is at least as fast as {against} up to density {density:.2f}"


def _masked_lines(result: Mapping[str, Any]) -> list[str]:
  """The whole model with more and more of its weights masked."""
  lines = []
  for name, density in result["model_break_even_densities"].items():
    steps = [f"{against_rivals(row, name):.2f}x at {row['density']:.2f}" for row in result["masked"]]
    lines.append(f"{_break_even_line(name, density, 'the model, masked further')} ({', '.join(steps)})")
  return lines


def _token_line(result: Mapping[str, Any]) -> str:
  different = {name: index for name, index in result["first_different_token"].items() if index is not None}
  if not different:
    return f"all variants write the same {result['tokens_a_round']} tokens"
  told = ", ".join(f"{name.replace('_', ' ')} from token {index}" for name, index in different.items())
  return f"tokens other than those of dense fp32: {told}"
