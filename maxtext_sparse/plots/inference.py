"""Speed and memory of sparse inference as a figure."""

from collections.abc import Mapping
import os
from typing import Any

from maxtext_sparse.plots import style
from maxtext_sparse.terminal import short

_COLOUR_OF = {"dense": 0, "torch": 2, "sparse": 3}


def save_comparison(result: Mapping[str, Any], out: str) -> list[str]:
  """Writes `inference.png` and `inference.svg`: tokens a second, resident memory, and the time of a product by density.

  Args:
    result: what `maxtext_sparse.inference.comparison.compare` returns.
    out: folder, made if missing.

  Raises:
    ConfigError: the folder cannot be written.
  """
  with style.in_style():
    figure, axes = style.panels(1, 3, height=2.8)
    _bars(axes[0, 0], result["tokens_per_second"], "tokens a second", result["tokens_per_second_interval"])
    _bars(axes[0, 1], {name: size / 1e6 for name, size in result["resident_bytes"].items()}, "resident memory, MB")
    _products(axes[0, 2], result["products"])
    machine = result["machine"]
    figure.suptitle(
      f"{short(result['parameters'])} parameters, density {result['density']:.2f}, {machine['processor']}, "
      f"{len(machine['cpus'])} cores, {machine['instruction_set']}",
      fontsize=9,
    )
    return style.save(figure, os.path.join(out, "inference"))


def _bars(axes: Any, values: Mapping[str, float], label: str, intervals: Mapping[str, Any] | None = None) -> None:
  names = list(values)[::-1]
  positions = range(len(names))
  colours = [style.colour(_COLOUR_OF[name.split("_")[0]]) for name in names]
  errors = None
  if intervals:
    low = [max(0.0, values[name] - intervals[name][0]) for name in names]
    errors = [low, [max(0.0, intervals[name][1] - values[name]) for name in names]]
  axes.barh(positions, [values[name] for name in names], xerr=errors, color=colours, edgecolor="black", linewidth=0.5)
  axes.set_yticks(positions, [name.replace("_", " ") for name in names])
  axes.set_xlabel(label)
  axes.grid(axis="y", visible=False)


def _products(axes: Any, products: Mapping[str, Any]) -> None:
  densities = products["densities"]
  for index, (dtype, seconds) in enumerate(products["ours"].items()):
    axes.plot(densities, [s * 1e3 for s in seconds], label=f"sparse {dtype}", markersize=4, **style.series(index))
  for index, (dtype, seconds) in enumerate(products["torch"].items()):
    axes.axhline(seconds * 1e3, color=style.colour(index), linestyle=style.DASHES[index + 1], label=f"torch {dtype}")
  axes.set(xlabel="density", ylabel="one product, ms", yscale="log")
  # Lines cross the whole panel, so there is no room inside.
  axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
