"""Scaling laws of sparse and dense runs: fit, compare, predict, recommend (paper section 5 and appendix A).

This is the analysis side. It imports the core (`config`, `schedule`), and the core never imports it. It needs the
`analysis` extra, and neither jax nor MaxText.
"""

import numpy as np
import numpy.typing as npt

# Every array of the laws holds float64: the fits go to rounding level, which float32 reaches too early.
Array = npt.NDArray[np.float64]
