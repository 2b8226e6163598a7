"""What a run would do and cost, before it is paid for: schedule, parameter counts, budgets, dense twins.

`cost` and `budget` need neither jax nor MaxText. `models` and `twins` read MaxText configs, from shapes alone.

How our schedules differ from the authors' code (their fork of MaxText, October 2024):

- *One step.* The authors prune before the forward pass of step t, so step t is the first that sees an event at t. Ours
  ranks the same weights, acts in the update of step t, and is first seen by step t+1. Each of the S N weights that the
  events remove is active for one step more, so the average size is larger by S N / T: with S = 0.8 and T = 16,000 steps
  by 0.005 % of N.
- *Averages* are means over steps, not over tokens or wall time. The two are the same while the batch is constant.
- *Where events lie.* Ours are at start + k P. The authors' are at multiples of P between start and end. Starts that we
  derive are multiples of P, and then both are the same; an explicit `gmp_start_step` need not be one.
"""
