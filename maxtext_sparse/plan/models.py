"""Parameter counts of any MaxText config from shapes alone: without weights or accelerators, for any parallelism."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import logging
import os
import sys
import types
from typing import Any

from maxtext_sparse import hooks
from maxtext_sparse.arguments import require_model
from maxtext_sparse.config import keys_of, run_steps, SparsityKeys
from maxtext_sparse.entry import merged_configs
from maxtext_sparse.errors import ConfigError, HookError
from maxtext_sparse.maxtext_errors import as_config_errors
from maxtext_sparse.plan import cost
from maxtext_sparse.preflight.expected import model_flops, tokens_per_device
from maxtext_sparse.pruning.groups import plan_pruning, PruningPlan
from maxtext_sparse.pruning.prunable import Parameter, rule_index, select_prunable

# Reading a config on a laptop must not look for a cluster.
_LOCAL = ("hardware=cpu", "skip_jax_distributed_system=True", "log_config=False")


@dataclasses.dataclass(frozen=True)
class Model:
  """What planning needs to know of a MaxText config.

  Attributes:
    flat: all its keys and values.
    keys: its sparsity keys.
    parameters: every array of the model.
    prunable: those that training with these keys prunes.
  """

  flat: dict[str, Any]
  keys: SparsityKeys
  parameters: tuple[Parameter, ...]
  prunable: tuple[Parameter, ...]

  @property
  def total(self) -> int:
    return sum(parameter.size for parameter in self.parameters)

  @property
  def num_prunable(self) -> int:
    return sum(parameter.size for parameter in self.prunable)

  @property
  def steps(self) -> int:
    return run_steps(self.flat)

  def rule_sizes(self, keys: SparsityKeys) -> list[int]:
    """Prunable weights under each of `keys.rules`."""
    sizes = [0] * len(keys.rules)
    for parameter in select_prunable(self.parameters, keys, self._trainable):
      sizes[rule_index(keys, parameter.path)] += parameter.size
    return sizes

  def plan(self, keys: SparsityKeys, steps: int) -> PruningPlan:
    """What training with these keys would prune, and when: the plan that the optimizer follows.

    Raises:
      ConfigError: the keys fit neither the model nor the run.
    """
    return plan_pruning(keys, self.parameters, steps, self._trainable)

  @property
  def _trainable(self) -> Sequence[str]:
    return self.flat.get("trainable_parameters_mask") or ()

  def tokens_per_step(self, num_chips: int | None = None) -> int | None:
    """Tokens of a global batch; None under batch ramp-up.

    Args:
      num_chips: devices of the run; if None those of `compile_topology`, or else of this machine.
    """
    # Negative where `compile_topology` leaves the number of slices open, -1, which then means one.
    devices = num_chips or abs(self.flat["num_target_devices"])
    try:
      return cost.tokens_per_step(self.flat, devices)
    except ConfigError as error:
      raise ConfigError(f"{error}, give --chips") from None

  @property
  def flops_per_token(self) -> float:
    """Model FLOPs of training on one token, by the formula behind MaxText's utilisation (MFU)."""
    config = types.SimpleNamespace(**self.flat)
    return model_flops(config) / tokens_per_device(config)

  def to_dict(self) -> dict[str, Any]:
    """What `params --json` prints. Each layer of a stacked array is a matrix, named as in a run's event files."""
    pruned = {parameter.path for parameter in self.prunable}
    return {
      "total": self.total,
      "prunable": self.num_prunable,
      "matrices": [entry for parameter in self.prunable for entry in _matrices(parameter)],
      "left_dense": [
        {"name": p.path, "shape": list(p.shape), "size": p.size} for p in self.parameters if p.path not in pruned
      ],
    }


def load_model(arguments: Sequence[str]) -> Model:
  """Reads a config as MaxText's train would, and builds its model as shapes.

  Args:
    arguments: `CONFIG ... key=value ...`, as for `train`.

  Raises:
    ConfigError: MaxText refuses the config.
  """
  require_model(arguments)
  with _quiet(), _config_hooks():
    from maxtext.configs import pyconfig

    with merged_configs(arguments) as merged, as_config_errors():
      config = pyconfig.HyperParameters(pyconfig._initialize_pydantic(["", *merged, *_LOCAL]))
    _require_model_file(config.model_name, arguments)
    with as_config_errors():
      parameters = _abstract_parameters(config)
  flat, keys = config.get_keys(), keys_of(config)
  trainable = flat.get("trainable_parameters_mask") or ()
  return Model(flat, keys, parameters, select_prunable(parameters, keys, trainable))


def _matrices(parameter: Parameter) -> Iterator[dict[str, Any]]:
  shape = [parameter.shape[axis] for axis in parameter.matrix_axes]
  # A matrix's first axes, over which a product with activations sums, and along which n:m groups lie.
  contraction_axes = list(range(len(parameter.contraction_axes)))
  for name in parameter.matrix_names():
    yield {"name": name, "shape": shape, "size": parameter.matrix_size, "contraction_axes": contraction_axes}


def _abstract_parameters(config: Any) -> tuple[Parameter, ...]:
  """Every array of the model that training would build, traced on a mesh of one device.

  Shapes follow from the config. The sizes of the mesh axes only decide where the pieces of an array go.
  """
  from flax import nnx
  from flax.core.spmd import logical_axis_rules
  import jax
  from maxtext.utils import model_creation_utils
  import numpy as np

  from maxtext_sparse.hooks.train_state import abstract_parameters

  axes = tuple(config.mesh_axes)
  device = np.array(jax.devices()[:1]).reshape((1,) * len(axes))
  mesh = jax.sharding.Mesh(device, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(axes))
  with logical_axis_rules(config.logical_axis_rules):
    if config.get_keys().get("pure_nnx", True):
      model = nnx.eval_shape(model_creation_utils.get_nnx_create_model_fn(config, mesh))
    else:  # Linen, up to MaxText 0.2.4
      model = model_creation_utils.from_config(config, mesh=mesh)
    return abstract_parameters(model, config)


@contextlib.contextmanager
def _config_hooks() -> Iterator[None]:
  """Installs only the hooks that add our keys to the config. The others would import all of MaxText's trainers."""
  from maxtext_sparse.hooks import registry, table

  version = hooks.maxtext_version()
  if version not in hooks.SUPPORTED_VERSIONS:
    raise HookError(f"maxtext=={version}: not supported, install one of {', '.join(hooks.SUPPORTED_VERSIONS)}")
  config_hooks = [hook for hook in table.hooks_for(version) if hook.target.startswith("maxtext.configs.")]
  were_installed = any(hook.is_installed() for hook in config_hooks)
  registry.install(config_hooks)
  try:
    yield
  finally:
    if not were_installed:
      registry.uninstall()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Sends what MaxText prints to stderr, and silences its log messages below errors."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  disabled = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    with contextlib.redirect_stdout(sys.stderr):
      yield
  finally:
    logging.disable(disabled)


def _require_model_file(name: str, arguments: Sequence[str]) -> None:
  """Raises ConfigError for a model whose shapes this MaxText lacks; it would go on with those of its default model."""
  from maxtext.utils.globals import MAXTEXT_CONFIGS_DIR

  folders = [os.path.dirname(os.path.abspath(path)) for path in arguments if "=" not in path]
  folders = [MAXTEXT_CONFIGS_DIR, *folders, *map(os.path.dirname, folders)]
  file = name.replace("-Instruct", "") + ".yml"
  if name != "default" and not any(os.path.isfile(os.path.join(folder, "models", file)) for folder in folders):
    raise ConfigError(f"model_name={name}: this MaxText comes without models/{file}, the file with its shapes")
