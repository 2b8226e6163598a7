"""`python -m maxtext_sparse` is `maxtext-sparse`."""

from maxtext_sparse.cli import main

if __name__ == "__main__":
  main()
