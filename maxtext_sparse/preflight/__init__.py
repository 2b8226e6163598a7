"""What a train step costs on a TPU topology, dense and sparse, told by the TPU compiler on any machine."""
