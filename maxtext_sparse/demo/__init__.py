"""The main job on real text, without a network, on a laptop's CPU: a sparse MaxText run and its dense twin, compared."""

from maxtext_sparse.demo.pipeline import run_demo

__all__ = ["run_demo"]
