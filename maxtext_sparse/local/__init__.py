"""Training in child processes of this machine, on real text that is already there: what the demo and sweeps share."""
