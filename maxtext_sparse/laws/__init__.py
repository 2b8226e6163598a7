"""Scaling laws of sparse and dense runs: fit, compare, predict, recommend (paper section 5 and appendix A).

The analysis side: it may import the core (`config`, `schedule`), never the other way round. Needs the `analysis` extra.
"""
