"""Names of workloads: at most 40 of a-z, 0-9 and hyphens, as xpk and Kubernetes want them."""

import hashlib
import re

from maxtext_sparse.errors import ConfigError

MAX_LENGTH = 40
_VALID = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_HASH_LENGTH = 6


def workload_name(text: str) -> str:
  """A valid name for `text`, always the same one; what had to be changed gets a hash, so that names stay distinct.

  Raises:
    ConfigError: `text` is empty.
  """
  if not text:
    raise ConfigError("run_name: missing, give run_name=NAME; a restarted workload resumes the run of that name")
  return text if is_valid(text) else _repaired(text)


def check_name(flag: str, name: str) -> None:
  """Raises ConfigError, with the nearest valid name, where `name` is not valid."""
  if not is_valid(name):
    hint = f", such as {_repaired(name, with_hash=False)}" if name else ""
    raise ConfigError(
      f"{flag}={name}: must start with a letter, have only a-z, 0-9 and hyphens inside, {MAX_LENGTH} at most{hint}"
    )


def is_valid(name: str) -> bool:
  return len(name) <= MAX_LENGTH and _VALID.fullmatch(name) is not None


def _repaired(text: str, with_hash: bool = True) -> str:
  stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
  stem = stem if stem[:1].isalpha() else f"run-{stem}".rstrip("-")
  if not with_hash:
    return stem[:MAX_LENGTH].rstrip("-")
  digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
  return f"{stem[: MAX_LENGTH - _HASH_LENGTH - 1].rstrip('-')}-{digest}"
