"""Model folders by their name on the Hugging Face Hub: `owner/name`, `owner/name@revision`, or the same behind `hf://`.

`huggingface_hub`, which transformers brings, downloads them into its cache, and finds there again what it has.
"""

import os
import re
import sys

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection.downloads import copy_from_bucket

_NAME = re.compile(r"(hf://)?([\w.-]+)/([\w.-]+)(?:@([\w./-]+))?$")
# Weights, config, certificate and tokenizer. Pictures and weights in other formats stay where they are.
_PATTERNS = ("*.safetensors", "*.json", "*.txt", "tokenizer.model")


def local_folder(path: str) -> str:
  """A folder on this machine: `path` itself, or the copy of a model in a bucket, or of the Hub's model of that name.

  A name whose first part is a folder here is taken for a path with a mistake in it; `hf://owner/name` never is.

  Raises:
    ConfigError: the Hub has no such model, or it cannot be reached and the model was not downloaded before.
  """
  if "://" in path and not path.startswith("hf://"):
    return copy_from_bucket(path)
  match = _NAME.match(path)
  if os.path.exists(path) or not match or (not match[1] and (match[2].strip(".") == "" or os.path.isdir(match[2]))):
    return path
  try:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars
  except ImportError:
    hint = "for the Hub's models, pip install 'maxtext-sparse[export]'"
    raise ConfigError(f"{path}: no such folder here; {hint}") from None
  if not sys.stderr.isatty():
    disable_progress_bars()
  try:
    return str(snapshot_download(f"{match[2]}/{match[3]}", revision=match[4], allow_patterns=list(_PATTERNS)))
  except Exception as error:  # the client raises whatever the network and the disk do
    raise ConfigError(f"{path}: no such folder here, and {_reason(error)}") from error


def _reason(error: Exception) -> str:
  """Why the Hub gave no model, in one phrase."""
  from huggingface_hub import errors

  # The first that fits counts: a gated model is a kind of missing one to the client.
  known = {
    errors.GatedRepoError: "the Hub asks you to accept the model's terms there and to log in with `hf auth login`",
    errors.RevisionNotFoundError: "the Hub's model has no such revision",
    errors.RepositoryNotFoundError: "no such model on the Hub, or a private one, which needs `hf auth login`",
    errors.LocalEntryNotFoundError: "the Hub cannot be reached, nor was the model downloaded before",
  }
  for kind, text in known.items():
    if isinstance(error, kind):
      return text
  lines = str(error).strip().splitlines()
  return f"the Hub's client failed ({type(error).__name__}{': ' + lines[0][:200] if lines else ''})"
