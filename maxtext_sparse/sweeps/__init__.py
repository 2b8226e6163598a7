"""A study of many runs: from a sweep file to a folder of configs, to trained runs, to the table of their results.

`make` writes the folder, `run` trains its runs on this machine, and `collect` writes the table. The folder is the same
when a cluster trains the runs. `make` and `collect` need neither an accelerator nor a cluster.
"""
