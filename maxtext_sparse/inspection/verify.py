"""Recounts a model folder and compares it with what its certificate claims."""

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection.certificate import FORMAT_VERSION
from maxtext_sparse.inspection.measure import COMMON_STRUCTURES, common_structures, MatrixFigures, measure, totals
from maxtext_sparse.weights.folder import CERTIFICATE_FILE, ModelFolder, read_json
from maxtext_sparse.weights.safetensors import DamagedFileError, sha256_of

_TOTALS = ("prunable", "nonzero", "density")
_MATRIX_CLAIMS = ("shape", "nonzero", "density", "dead_rows", "dead_columns", "mask_sha256")


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What was found in a folder.

  Attributes:
    problems: one line for each claim that is not true and each file that is damaged.
    checks: one line for each kind of claim that is true.
    figures: of each linear layer's weight, as recounted.
  """

  problems: list[str]
  checks: list[str]
  figures: list[MatrixFigures]

  @property
  def is_ok(self) -> bool:
    return not self.problems

  def to_dict(self) -> dict[str, Any]:
    return {
      "ok": self.is_ok,
      "problems": self.problems,
      **totals(self.figures),
      "structures": common_structures(self.figures),
      "matrices": [figure.to_dict() for figure in self.figures],
    }


def verify(path: str) -> Verdict:
  """Recounts every linear layer's weight of a folder, ours or another's, and checks its certificate.

  A folder without a certificate is counted all the same; that it claims nothing is a problem.

  Raises:
    ConfigError: there is no such folder, or no model in it.
  """
  if os.path.isfile(path):
    raise ConfigError(f"{path}: is a file, must be the folder of a model")
  problems: list[str] = []
  checks: list[str] = []
  figures: list[MatrixFigures] = []
  claims: dict[str, Any] = {}
  try:
    claims = read_json(os.path.join(path, CERTIFICATE_FILE))
    file_problems = _file_problems(path, claims)
    problems += file_problems
    if claims and not file_problems:
      num_files = len(claims["files"])
      checks.append(f"{num_files} weight file{'s' if num_files != 1 else ''} with the bytes and SHA-256 that are claimed")
    folder = ModelFolder(path)
    for name in _prunable_names(folder, claims):
      try:
        figures.append(measure(name, folder.read(name), _structures(claims)))
      except DamagedFileError as error:
        problems.append(str(error))
  except DamagedFileError as error:
    problems.append(str(error))
  if not claims:
    problems.append(f"{CERTIFICATE_FILE}: not there, the folder claims nothing that could be verified")
    return Verdict(_without_doubles(problems), checks, figures)
  for what, found in _comparisons(claims, figures):
    problems += found
    checks += [] if found else [what]
  return Verdict(_without_doubles(problems), checks, figures)


def _comparisons(claims: Mapping[str, Any], figures: list[MatrixFigures]) -> Iterator[tuple[str, list[str]]]:
  """What each kind of claim says when it is true, and the problems if it is not."""
  counted = totals(figures)
  density = f"{counted['nonzero']:,} of {counted['prunable']:,} weights are not zero ({counted['density']:.4%})"
  yield (
    density,
    [
      f"{key}: the certificate claims {claims.get(key)}, the folder has {counted[key]}"
      for key in _TOTALS
      if claims.get(key) != counted[key]
    ],
  )
  yield f"the masks of {len(figures)} matrices have the digests that are claimed", list(_matrix_problems(claims, figures))
  structures = claims.get("structures", [])
  broken = [structure for structure in structures if structure not in common_structures(figures)]
  yield (
    f"every matrix has the structure {', '.join(structures)}" if structures else "no structure is claimed",
    [f"structure {structure}: claimed, and not every matrix has it" for structure in broken],
  )


def _matrix_problems(claims: Mapping[str, Any], figures: list[MatrixFigures]) -> Iterator[str]:
  claimed = {matrix.get("name"): matrix for matrix in claims.get("matrices", [])}
  for figure in figures:
    claim = claimed.pop(figure.name, None)
    if claim is None:
      yield f"{figure.name}: the certificate does not mention this matrix"
      continue
    counted = figure.to_dict()
    wrong = [key for key in _MATRIX_CLAIMS if claim.get(key) != counted[key]]
    if wrong:
      yield f"{figure.name}: " + ", ".join(f"{key} is {counted[key]}, claimed is {claim.get(key)}" for key in wrong)
  for name in claimed:
    yield f"{name}: claimed, and not in the folder"


def _file_problems(path: str, claims: Mapping[str, Any]) -> list[str]:
  """Files that are missing, of another size or with another content than claimed."""
  problems = []
  if claims and claims.get("format_version") != FORMAT_VERSION:
    problems.append(f"{CERTIFICATE_FILE}: format_version is {claims.get('format_version')}, must be {FORMAT_VERSION}")
  for name, claim in claims.get("files", {}).items():
    file = os.path.join(path, os.path.basename(name))
    if not os.path.isfile(file):
      problems.append(f"{name}: claimed, and not in the folder")
    elif os.path.getsize(file) != claim.get("bytes"):
      problems.append(f"{name}: has {os.path.getsize(file)} bytes, claimed are {claim.get('bytes')}")
    elif sha256_of(file) != claim.get("sha256"):
      problems.append(f"{name}: its content is not what the certificate was written for (SHA-256)")
  unclaimed = [name for name in _weight_names(path) if claims and name not in claims.get("files", {})]
  return problems + [f"{name}: the certificate does not mention this file" for name in unclaimed]


def _weight_names(path: str) -> list[str]:
  return sorted(name for name in os.listdir(path) if name.endswith(".safetensors")) if os.path.isdir(path) else []


def _prunable_names(folder: ModelFolder, claims: Mapping[str, Any]) -> list[str]:
  """The matrices to count: those that the certificate speaks of and all others that are linear layers."""
  present = folder.names()
  claimed = {matrix.get("name") for matrix in claims.get("matrices", [])}
  linear = set(folder.linear_names()) - set(claims.get("left_dense", ()))
  return [name for name in present if name in linear or name in claimed]


def _structures(claims: Mapping[str, Any]) -> list[str]:
  return list(dict.fromkeys([*claims.get("structures", []), *COMMON_STRUCTURES]))


def _without_doubles(lines: list[str]) -> list[str]:
  return list(dict.fromkeys(lines))
