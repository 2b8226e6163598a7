"""A study of many runs: sweep files, the folder made from one, local processes, and the table of what came out.

`make` and `collect` need neither an accelerator nor a cluster; the folder is the same for both ways of running it.
"""
