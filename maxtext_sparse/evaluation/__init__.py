"""Downstream evaluation of model folders with lm-evaluation-harness, with torch or without it."""
