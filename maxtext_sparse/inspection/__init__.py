"""Says what a sparse model is: counts, structures, dead neurons and mask overlap of a checkpoint or a model folder."""
