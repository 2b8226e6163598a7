"""The density up to which sparse weights are as fast as dense ones: of single products, and of the whole model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The model is masked further to these shares of its own density, largest first, since a weight that is gone is gone.
SHARES = (0.75, 0.5, 0.25)
# What each of ours must beat. int8 values compete with everything, bfloat16 values with torch's floats.
RIVALS = {"sparse_bf16": ("fp32", "bf16"), "sparse_int8": ("fp32", "bf16", "int8")}


def break_even_density(densities: Sequence[float], ours: Sequence[float], dense: float) -> float | None:
  """The density up to which ours is at least as fast as dense, interpolated.

  Args:
    densities: ascending.
    ours: seconds at each of them.
    dense: seconds at any density.

  Returns:
    None if ours never is as fast, and the last density if it always is.
  """
  is_faster = [seconds <= dense for seconds in ours]
  if not is_faster[0]:
    return None
  if all(is_faster):
    return densities[-1]
  first_slower = is_faster.index(False)
  before, after = ours[first_slower - 1], ours[first_slower]
  share = (dense - before) / (after - before)
  return densities[first_slower - 1] + share * (densities[first_slower] - densities[first_slower - 1])


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
  found = {}
  for name, rivals in RIVALS.items():
    # Relative to the fastest rival, which was measured again at each density.
    times = [max(row["tokens_per_second"][f"dense_{r}"] for r in rivals) / row["tokens_per_second"][name] for row in rows]
    found[name] = break_even_density([row["density"] for row in rows], times, 1.0)
  return found


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
