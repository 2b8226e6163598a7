"""Trains one run of a sweep in a child process."""

from collections.abc import Sequence
import glob
import os

from maxtext_sparse.local.process import child_environment, TrainingProcess
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import is_local, metrics_file


class RunProcess(TrainingProcess):
  """The child process that trains one run of a sweep from its last checkpoint."""

  def __init__(self, manifest: Manifest, run: Run, cores: Sequence[int] | None):
    """Starts training.

    Args:
      manifest: the sweep.
      run: what to train.
      cores: CPU cores that the process keeps to, all if None.
    """
    self.run = run
    config = manifest.load_config(run)
    num_devices = manifest.spec.get("devices", 1) if config.get("hardware") == "cpu" else None
    super().__init__(
      _arguments(manifest, run),
      os.path.join(manifest.directory, "logs", f"{run.name}.log"),
      child_environment(os.environ, num_devices, is_offline=is_local(manifest.output_path)),
      # The configs hold paths relative to the sweep's folder.
      directory=manifest.directory,
      cores=cores,
    )


def _arguments(manifest: Manifest, run: Run) -> list[str]:
  """The run's config file, and the keys that must be absolute paths for MaxText."""
  folder = os.path.abspath(manifest.directory)
  arguments = [
    os.path.join(folder, run.config),
    f"base_output_directory={manifest.output_path}",
    f"jax_cache_dir={os.path.join(folder, 'jax_cache')}",
  ]
  if is_local(manifest.output_path):
    arguments += [f"metrics_file={metrics_file(manifest, run)}"]
  if manifest.spec.get("corpus") is not None:
    corpus = os.path.join(folder, "corpus")
    # MaxText reads these two as glob patterns.
    arguments += [f"grain_{part}_files={glob.escape(corpus)}/{part}.parquet" for part in ("train", "eval")]
    arguments += [f"tokenizer_path={os.path.join(corpus, 'vocabulary.model')}"]
  return arguments
