"""The pruning algorithm, in jax alone.

prunable     which parameters are pruned, and how their arrays unfold into matrices
budgets      how many weights each keeps after each event
plan         both together, for a model: groups of parameters with a rule each
event        one event: what survives
keys, scores, structures      what ranks a weight, and in which shape weights go
threshold, search, counting   the cut, found by counting
transform    the optax wrapper and the gradient mask: the public face
census       exact counts of a state
"""
