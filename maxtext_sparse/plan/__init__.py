"""What a run would do and cost, before it is paid for: schedule, parameter counts, budgets, dense twins.

`report` and `budget` need neither jax nor MaxText; `models` and `twins` read MaxText configs, from shapes alone.
"""
