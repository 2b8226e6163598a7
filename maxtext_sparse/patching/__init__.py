"""The patch set: sparsity keys native in a MaxText checkout or install, applied and taken off byte for byte."""
