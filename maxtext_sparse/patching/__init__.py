"""The patch set: it makes the sparsity keys native in a MaxText checkout or install, and reverts byte for byte."""
