"""What must hold for every figure: it fits a page, no text is cut off or covered by another, every panel has ticks."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
import numpy as np

from maxtext_sparse.plots import style


def drawn(figure, monkeypatch):
  """Text and place in pixels of all that is written when the figure is drawn."""
  found = []
  original = Text.draw

  def draw(self, renderer, *args, **settings):
    if self.get_visible() and self.get_text().strip():
      found.append((self.get_text(), Text.get_window_extent(self, renderer)))
    original(self, renderer, *args, **settings)

  with monkeypatch.context() as patch:
    patch.setattr(Text, "draw", draw)
    FigureCanvasAgg(figure).draw()
  return found


def check_page(figure, monkeypatch):
  """The figure is at most a page, and no text leaves it or touches another."""
  assert (np.asarray(figure.get_size_inches()) <= np.asarray(style.PAGE) + 1e-9).all()
  found = drawn(figure, monkeypatch)
  assert found
  for text, box in found:
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
  for (text, box), (other, place) in itertools.combinations(found, 2):
    assert not box.padded(-1).overlaps(place.padded(-1)), (text, other)


def check_ticks(figure):
  """Every panel has a labelled tick on both axes."""
  for axis in figure.axes:
    for side in (axis.xaxis, axis.yaxis):
      low, high = sorted(side.get_view_interval())
      labels = [tick.label1 for tick in side.get_major_ticks() if low <= tick.get_loc() <= high]
      # The colour bar has its labels on the other side.
      if not hasattr(axis, "_colorbar"):
        assert any(label.get_visible() and label.get_text() for label in labels), (axis.get_title(), side.axis_name)
