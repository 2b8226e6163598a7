"""Writes a Hugging Face model folder from a MaxText checkpoint, one parameter at a time.

The folder is written aside and renamed, or uploaded, when it is complete: a process that is killed leaves nothing that
looks finished.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export import card, tokenizer
from maxtext_sparse.export.aside import check_target, written_aside
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.families import Family, family_of, TORCH_DTYPES
from maxtext_sparse.export.origin import prunable_paths, training_facts
from maxtext_sparse.export.run_config import run_config, RunConfig
from maxtext_sparse.export.upload import check_bucket, uploaded
from maxtext_sparse.inspection.certificate import certificate
from maxtext_sparse.inspection.measure import COMMON_STRUCTURES, MatrixFigures, measure
from maxtext_sparse.runs.files import replace_json, replace_text
from maxtext_sparse.weights import bitmask
from maxtext_sparse.weights.folder import CERTIFICATE_FILE, CONFIG_FILE, is_linear, STEMS
from maxtext_sparse.weights.safetensors import DTYPES, TensorWriter

FORMATS = ("dense", "bitmask")
_SIZES = ("weight_bytes", "dense_bytes", "bitmask_bytes", "linear_bytes")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """How to write.

  Attributes:
    dtype: float32, bfloat16 or float16; that of the checkpoint if None.
    weights_format: dense or bitmask.
    is_compressed: bitmask only: pack the values with zstd.
    shard_bytes: largest weight file.
    is_forced: whether an OUT with files in it is replaced.
  """

  dtype: str | None = None
  weights_format: str = "dense"
  is_compressed: bool = False
  shard_bytes: int = 5_000_000_000
  is_forced: bool = False


@dataclasses.dataclass(frozen=True)
class Export:
  """What was written.

  Attributes:
    certificate: content of sparsity.json.
    weight_bytes: of all tensors as stored.
    dense_bytes: of all tensors, dense in the same dtype.
    bitmask_bytes: of all tensors, with bitmask and values in the same dtype.
    linear_bytes: of the linear layers' weights as stored.
    notes: lines for the user.
  """

  certificate: dict[str, Any]
  weight_bytes: int
  dense_bytes: int
  bitmask_bytes: int
  linear_bytes: int
  notes: list[str]

  def to_dict(self) -> dict[str, Any]:
    """The certificate's entries and the sizes."""
    sizes: dict[str, Any] = {name: getattr(self, name) for name in _SIZES}
    return self.certificate | sizes | {"notes": self.notes}


def export_checkpoint(
  path: str,
  out: str,
  arguments: list[str],
  options: ExportOptions = ExportOptions(),
  report: Callable[[int, int], None] = lambda done, total: None,
) -> Export:
  """Writes the model of a checkpoint as a Hugging Face folder.

  Args:
    path: the checkpoint, local or in a bucket.
    out: the folder to write, local or in a bucket.
    arguments: `CONFIG ... key=value ...`; where there is no CONFIG, the config comes from the run's record, or from the
      checkpoint's shapes and MaxText's defaults.
    options: how to write.
    report: called with the number of parameters written so far and of all.

  Raises:
    ConfigError: no finished checkpoint, another family, shapes that contradict the config, OUT not empty, or no room.
  """
  _check_options(out, options)
  checkpoint = Checkpoint(path)
  config = run_config(checkpoint, arguments)
  dtype = options.dtype or _most_common_dtype(checkpoint)
  family = family_of(config.flat, checkpoint, dtype)
  num_bytes = _dense_bytes(family, dtype)
  is_bucket = "://" in out
  target = uploaded(out, num_bytes, CONFIG_FILE) if is_bucket else written_aside(out, options.is_forced, num_bytes)
  with target as folder:
    export = _fill(folder, family, checkpoint, config, dtype, options, report)
  return dataclasses.replace(export, notes=[*config.notes, *export.notes])


def _fill(
  folder: str,
  family: Family,
  checkpoint: Checkpoint,
  config: RunConfig,
  dtype: str,
  options: ExportOptions,
  report: Callable[[int, int], None],
) -> Export:
  """Writes everything into an empty folder; the config last, without which no loader takes it for a model."""
  weights = _Weights(folder, family, DTYPES[TORCH_DTYPES[dtype]], options, prunable_paths(checkpoint))
  weights.write(family.tensors(checkpoint), report)
  notes = [*family.notes, *weights.notes]
  special_ids: dict[str, int] = {}
  try:
    special_ids = tokenizer.write_tokenizer(folder, config.flat)
  except ConfigError as error:
    notes.append(f"no tokenizer in the folder: {error}")
  claims = certificate(
    folder,
    weights.figures,
    weights_format=options.weights_format,
    is_compressed=options.is_compressed,
    dtype=TORCH_DTYPES[dtype],
    total=sum(math.prod(shape) for shape in family.shapes.values()),
    rounded_to_zero=weights.rounded_to_zero,
    left_dense=sorted(weights.left_dense),
    training=training_facts(checkpoint, config),
  )
  has_figure = _draw_density(folder, claims)
  replace_text(os.path.join(folder, card.FILE), card.model_card(claims, has_figure))
  replace_json(os.path.join(folder, "generation_config.json"), {"_from_model_config": True, **special_ids})
  replace_json(os.path.join(folder, CERTIFICATE_FILE), claims)
  replace_json(os.path.join(folder, CONFIG_FILE), {**family.config, **special_ids})
  dense_bytes = _dense_bytes(family, dtype)
  sizes = weights.num_bytes, dense_bytes, dense_bytes + weights.added_by_bitmask, weights.linear_bytes
  return Export(claims, *sizes, notes)


class _Weights:
  """Writes the tensors of a model and counts what it writes."""

  def __init__(
    self,
    folder: str,
    family: Family,
    dtype: np.dtype[Any],
    options: ExportOptions,
    is_prunable: Callable[[str], bool],
  ):
    self._is_prunable = is_prunable
    self.left_dense: list[str] = []
    self._folder, self._shapes, self._dtype, self._options = folder, family.shapes, dtype, options
    self._figures: dict[str, MatrixFigures] = {}
    self.rounded_to_zero = 0
    self.num_bytes = self.linear_bytes = 0
    self.notes: list[str] = []

  @property
  def figures(self) -> list[MatrixFigures]:
    """Figures of each linear layer's weight in the order of the layers."""
    return [self._figures[name] for name in self._shapes if name in self._figures]

  @property
  def added_by_bitmask(self) -> int:
    """Bytes of bitmask and values less those of the same matrices, dense. Below 0 where the format saves room."""
    shapes = [matrix.shape for matrix in self.figures]
    num_nonzero = sum(matrix.nonzero for matrix in self.figures)
    dense = sum(matrix.size for matrix in self.figures) * self._dtype.itemsize
    return bitmask.packed_bytes(shapes, num_nonzero, self._dtype.itemsize) - dense

  def write(self, tensors: Iterator[tuple[str, str, NDArray[Any]]], report: Callable[[int, int], None]) -> None:
    stem = STEMS[self._options.weights_format]
    total, done = sum(map(math.prod, self._shapes.values())), 0
    writer = TensorWriter(self._folder, stem, self._options.shard_bytes, self._stored_names(), self._metadata())
    written = set()
    try:
      for path, name, array in tensors:
        assert array.shape == self._shapes[name], (name, array.shape, self._shapes[name])
        self._add(writer, name, array, is_pruned=self._is_prunable(path))
        written.add(name)
        done += array.size
        # Or it would stay in memory while the next one is read.
        del array
        report(done, total)
      missing = [name for name in self._shapes if name not in written]
      if missing:
        raise ConfigError(f"{missing[0]}: the checkpoint has no parameter for this tensor")
      file_of = writer.close()
    except BaseException:
      writer.abandon()
      raise
    self.num_bytes = writer.total_bytes
    if len(set(file_of.values())) > 1:
      index = {"metadata": {"total_size": writer.total_bytes}, "weight_map": dict(sorted(file_of.items()))}
      replace_json(os.path.join(self._folder, f"{stem}.safetensors.index.json"), index)
    if self.rounded_to_zero:
      self.notes.append(
        f"{self.rounded_to_zero} live weights are smaller than {self._dtype.name} can hold and were rounded to zero"
      )

  def _add(self, writer: TensorWriter, name: str, array: NDArray[Any], is_pruned: bool) -> None:
    stored = np.ascontiguousarray(array.astype(self._dtype, copy=False))
    if not is_linear(name, stored.shape):
      writer.add(name, stored)
      return
    if not is_pruned:
      self.left_dense.append(name)
      writer.add(name, stored)
      return
    self.rounded_to_zero += int(np.count_nonzero(array)) - int(np.count_nonzero(stored))
    self._figures[name] = measure(name, stored, COMMON_STRUCTURES)
    parts = {name: stored}
    if self._options.weights_format == "bitmask":
      fields = bitmask.pack(stored)
      fields = bitmask.compress(fields) if self._options.is_compressed else fields
      parts = {f"{name}.{field}": part for field, part in fields.items()}
    for part_name, part in parts.items():
      writer.add(part_name, part)
      self.linear_bytes += part.nbytes

  def _stored_names(self) -> list[str]:
    """Every name that a tensor may get; which matrices are left dense is not known yet."""
    if self._options.weights_format == "dense":
      return list(self._shapes)
    fields = bitmask.PACKED_FIELDS if self._options.is_compressed else bitmask.FIELDS
    names = (
      [name, *(f"{name}.{field}" for field in fields)] if is_linear(name, shape) else [name]
      for name, shape in self._shapes.items()
    )
    return [name for group in names for name in group]

  def _metadata(self) -> dict[str, str]:
    """`format: pt` is what transformers asks of a file."""
    dtype = next(name for name, known in DTYPES.items() if known == self._dtype)
    is_dense = self._options.weights_format == "dense"
    return {"format": "pt"} if is_dense else {"format": "bitmask", "dtype": dtype}


def _check_options(out: str, options: ExportOptions) -> None:
  """Refuses what cannot be done, before anything is read."""
  check = check_bucket if "://" in out else check_target
  check(out, options.is_forced, CONFIG_FILE)
  if options.weights_format not in FORMATS:
    raise ConfigError(f"--format={options.weights_format}: must be {' or '.join(FORMATS)}")
  if options.is_compressed and options.weights_format != "bitmask":
    raise ConfigError("--compress: packs the values of --format bitmask, give that too")
  if options.dtype is not None and options.dtype not in TORCH_DTYPES:
    raise ConfigError(f"--dtype={options.dtype}: must be {' or '.join(TORCH_DTYPES)}")


def _most_common_dtype(checkpoint: Checkpoint) -> str:
  sizes: dict[str, int] = {}
  for leaf in checkpoint.leaves.values():
    sizes[leaf.dtype.name] = sizes.get(leaf.dtype.name, 0) + leaf.num_bytes
  dtype = max(sizes, key=sizes.__getitem__)
  if dtype not in TORCH_DTYPES:
    raise ConfigError(f"--dtype: the checkpoint's is {dtype}, give {' or '.join(TORCH_DTYPES)}")
  return dtype


def _dense_bytes(family: Family, dtype: str) -> int:
  return sum(map(math.prod, family.shapes.values())) * DTYPES[TORCH_DTYPES[dtype]].itemsize


def _draw_density(folder: str, claims: Mapping[str, Any]) -> bool:
  """The figure of the card, where matplotlib is installed."""
  try:
    from maxtext_sparse.plots.inspect import draw_heat_map
  except ImportError:
    return False
  draw_heat_map(claims["matrices"], os.path.join(folder, card.FIGURE))
  return True
