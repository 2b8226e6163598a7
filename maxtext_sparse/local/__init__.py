"""What the demo and sweeps share: training in child processes of this machine, and a corpus of text that it has."""
