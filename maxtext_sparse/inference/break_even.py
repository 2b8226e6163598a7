"""The density up to which sparse weights are as fast as dense ones: of single products, and of the whole model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The model is masked further to these shares of its own density, largest first, since a weight that is gone is gone.
SHARES = (0.75, 0.5, 0.25)
# What each of ours must beat. int8 values compete with everything, bfloat16 values with torch's floats.
RIVALS = {"sparse_bf16": ("fp32", "bf16"), "sparse_int8": ("fp32", "bf16", "int8")}


def break_even_density(densities: Sequence[float], ours: Sequence[float], dense: float) -> float | None:
  """The density up to which ours is at least as fast as dense, interpolated: the end of the first stretch.

  Args:
    densities: ascending.
    ours: seconds at each of them.
    dense: seconds at any density.

  Returns:
    None if ours is slower at all of them, and the last density if it is as fast up to there.
  """
  is_faster = [seconds <= dense for seconds in ours]
  if not any(is_faster):
    return None
  begin = is_faster.index(True)
  if all(is_faster[begin:]):
    return densities[-1]
  after = is_faster.index(False, begin)
  share = (dense - ours[after - 1]) / (ours[after] - ours[after - 1])
  return densities[after - 1] + share * (densities[after] - densities[after - 1])


def of_products(products: Mapping[str, Any]) -> dict[str, float | None]:
  """By form, from the times of single products; see `products.py`."""
  torch, ours, densities = products["torch"], products["ours"], products["densities"]
  return {
    name: break_even_density(densities, ours[name.removeprefix("sparse_")], min(torch[rival] for rival in rivals))
    for name, rivals in RIVALS.items()
  }


def of_model(masked: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
  """By form, from the tokens a second of the whole model at several densities; see `mask_in_steps`."""
  rows = sorted(masked, key=lambda row: row["density"])
  densities = [row["density"] for row in rows]
  return {name: break_even_density(densities, [1 / against_rivals(row, name) for row in rows], 1.0) for name in RIVALS}


def against_rivals(row: Mapping[str, Any], name: str) -> float:
  """How many times as fast as its fastest rival, which was measured again at the same density, a form of ours is."""
  speeds = row["tokens_per_second"]
  fastest: float = max(speeds[f"dense_{rival}"] for rival in RIVALS[name])
  return float(speeds[name]) / fastest


def mask_in_steps(
  density: float, mask: Callable[[float], None], tokens_per_second: Callable[[], dict[str, float]]
) -> list[dict[str, Any]]:
  """Masks the model further and measures it in between.

  Args:
    density: of the model.
    mask: makes the sparse forms keep only their largest weights, this share of all.
    tokens_per_second: times all forms, by name.

  Returns:
    `density` and `tokens_per_second` of each step, the model's own density first.
  """
  rows = [{"density": density, "tokens_per_second": tokens_per_second()}]
  for share in SHARES:
    mask(share * density)
    rows.append({"density": share * density, "tokens_per_second": tokens_per_second()})
  return rows
