"""Training runs as workloads of a TPU cluster: the pod's command, its placement, and xpk, which submits it.

The machine that submits needs neither MaxText nor an accelerator.
"""
