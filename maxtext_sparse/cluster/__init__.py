"""Training runs as workloads of a TPU cluster: the command of a pod, its names, and xpk, which submits it.

Needs neither MaxText nor a device on the machine that submits.
"""
