"""Model folders as Hugging Face lays them out: reading and writing safetensors files, dense or as bitmask and values.

Needs numpy and ml_dtypes only, no jax and no torch.
"""
