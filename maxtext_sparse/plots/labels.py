"""Names beside points, placed so that none covers another name or a point."""

from collections.abc import Iterator, Sequence
import math

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
import numpy as np

_SIZE = 8
# Half the width of a marker, and the space around a name, in points.
_MARKER = 4.5
_SPACE = 1.5
# A name further away than this is joined to its point by a line.
_NEAR = 14.0
_DIRECTIONS = (0, 180, 90, 270, 45, 315, 135, 225)


def name_points(
  axis: Axes, names: Sequence[str], points: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> None:
  """Writes each name beside its point.

  Args:
    axis: all else is drawn and its limits are final.
    names: one for each point.
    points: places of the points in data coordinates.
    other: further points that no name may cover.
  """
  figure = axis.get_figure(root=True)
  assert figure is not None
  # The layout decides how large the axes are.
  figure.draw_without_rendering()
  scale = 72.0 / figure.dpi
  inside = _scaled(axis.bbox, scale)
  at = axis.transData.transform([*points, *other]) * scale
  taken = [Bbox.from_extents(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in at]
  for index in np.argsort(at[: len(points), 1]):
    text = axis.annotate(names[index], points[index], xytext=(0, 0), textcoords="offset points", size=_SIZE)
    extent = _scaled(text.get_window_extent(), scale)
    x, y = at[index]
    place = next((p for p in _places(x, y, extent.width, extent.height) if _is_free(p, inside, taken)), None)
    text.remove()
    if place is None:
      continue
    taken.append(place)
    # The side that is next to the point is held there: with fewer dots per inch a text is a little wider.
    side = "right" if place.x1 < x else "left"
    offset = ((place.x1 if side == "right" else place.x0) - x, place.y0 - y)
    nearest = math.hypot(x - np.clip(x, place.x0, place.x1), y - np.clip(y, place.y0, place.y1))
    arrow = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": _MARKER}
    axis.annotate(
      names[index],
      points[index],
      xytext=offset,
      textcoords="offset points",
      size=_SIZE,
      ha=side,
      va="bottom",
      arrowprops=arrow if nearest > _NEAR else None,
    )


def _scaled(box: Bbox, scale: float) -> Bbox:
  return Bbox(np.asarray(box.get_points()) * scale)


def _places(x: float, y: float, width: float, height: float) -> Iterator[Bbox]:
  """Boxes of a name around a point, near ones first and right before left."""
  for distance in (8.0, 11.0, *np.arange(18.0, 140.0, 6.0)):
    for degrees in _DIRECTIONS:
      right, up = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
      middle_x = x + right * (distance + 0.5 * width)
      middle_y = y + up * (distance + 0.5 * height)
      yield Bbox.from_bounds(middle_x - 0.5 * width, middle_y - 0.5 * height, width, height)


def _is_free(place: Bbox, inside: Bbox, taken: Sequence[Bbox]) -> bool:
  if place.x0 < inside.x0 or place.x1 > inside.x1 or place.y0 < inside.y0 or place.y1 > inside.y1:
    return False
  padded = place.padded(_SPACE)
  return not any(padded.overlaps(box) for box in taken)
