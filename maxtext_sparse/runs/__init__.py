"""What a run leaves on disk, and how it is read: metrics rows, the sparsity record, the table of finished runs."""
