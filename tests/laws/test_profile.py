"""Profiles of a fit whose coefficients the runs determine badly: the 95 % interval of B spans many powers of ten."""

import numpy as np

from maxtext_sparse.laws.fit import fit
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.profile import profiles
from maxtext_sparse.laws.uncertainty import bootstrap


def test_a_profile_rises_to_both_sides_without_steps_from_worse_optima(t5):
  """The least objective grows with the distance from the fit, unless a point ends in a worse optimum."""
  found = fit(LAWS["average"], t5, num_starts=200)
  found_profiles = profiles(found, bootstrap(found, 40))
  for profile in found_profiles:
    middle = len(profile.values) // 2
    assert np.all(profile.objective >= 1.0 - 1e-6), profile.name
    assert np.all(np.diff(profile.objective[middle:]) > -1e-3), profile.name
    assert np.all(np.diff(profile.objective[: middle + 1]) < 1e-3), profile.name
  by_name = {profile.name: profile for profile in found_profiles}
  # Either pins the same term, A / N^alpha, so that their profiles have the same height at the ends.
  np.testing.assert_allclose(by_name["A"].objective[[0, -1]], by_name["alpha"].objective[[0, -1]], rtol=0.03)
