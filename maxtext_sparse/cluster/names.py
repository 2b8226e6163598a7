"""Names of workloads and clusters. xpk and Kubernetes want at most 40 of a-z, 0-9 and hyphens."""

import hashlib
import re

from maxtext_sparse.errors import ConfigError

MAX_LENGTH = 40
_VALID = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_HASH_LENGTH = 6


def workload_name(text: str) -> str:
  """Returns a valid workload name for `text`, always the same one.

  A text that is not valid is repaired and gets a hash, so that two texts never share a name.

  Raises:
    ConfigError: `text` is empty.
  """
  if not text:
    raise ConfigError("run_name: missing, give run_name=NAME; a restarted workload resumes the run of that name")
  return text if is_valid(text) else _repaired(text)


def check_name(flag: str, name: str) -> None:
  """Raises ConfigError, with the nearest valid name, if `name` is not valid."""
  if not is_valid(name):
    hint = f", such as {_repaired(name, with_hash=False)}" if name else ""
    raise ConfigError(
      f"{flag}={name}: must be at most {MAX_LENGTH} characters of a-z, 0-9 and hyphens, begin with a letter and not end "
      f"with a hyphen{hint}"
    )


def is_valid(name: str) -> bool:
  """Whether xpk and Kubernetes accept `name`."""
  return len(name) <= MAX_LENGTH and _VALID.fullmatch(name) is not None


def _repaired(text: str, with_hash: bool = True) -> str:
  stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
  stem = stem if stem[:1].isalpha() else f"run-{stem}".rstrip("-")
  if not with_hash:
    return stem[:MAX_LENGTH].rstrip("-")
  digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
  return f"{stem[: MAX_LENGTH - _HASH_LENGTH - 1].rstrip('-')}-{digest}"
