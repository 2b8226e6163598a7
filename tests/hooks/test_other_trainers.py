"""Trainers without MaxText's own train step: what they cannot do is refused in one line, a dense run is left alone.

None of them may take the sparsity keys and train dense.
"""

from types import SimpleNamespace

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse import hooks
from maxtext_sparse.config_files import dump, read_config, stock_file
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks import preference_hooks, sink_hooks
from tests.hooks.harness import arguments, SPARSE

pytestmark = pytest.mark.release


@pytest.fixture(scope="module", autouse=True)
def hooked():
  with hooks.installed():
    yield


@pytest.fixture
def command_line(tmp_path):
  return lambda **keys: ["train.py", *arguments(tmp_path, "other", opt_type="sgd", **keys)]


@pytest.fixture
def get_optimizer():
  from maxtext.optimizers import optimizers

  return lambda *args, **kwargs: optimizers.get_optimizer(*args, **kwargs)


ACTIVE = {"sparse": SPARSE, "hold": {"pruning_method": "hold"}}
OPENING = {"sparse": r"^sparsity=0\.8: ", "hold": "^pruning_method=hold: "}
PREFERENCES = {"use_dpo": True, "packing": False, "dataset_type": "grain", "grain_train_files": "pairs.parquet"}


class Model(nnx.Module):
  """What is enough of a model to build an optimizer for, in the shape of MaxText's adapter for tunix."""

  def __init__(self, config=None):
    self.mlp = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
    self.base = SimpleNamespace(config=config)


@pytest.mark.parametrize("way", ACTIVE)
def test_tunix_trainer_for_instructions_brings_the_pydantic_config(command_line, get_optimizer, way):
  from maxtext.configs import pyconfig

  get_optimizer(pyconfig.initialize_pydantic(command_line()), 0.1, object())
  config = pyconfig.initialize_pydantic(command_line(**ACTIVE[way]))
  with pytest.raises(ConfigError, match=OPENING[way] + "this trainer has a train step of its own"):
    get_optimizer(config, 0.1, object())


def test_training_on_preferences_refuses_a_schedule(command_line):
  from maxtext.configs import pyconfig

  with pytest.raises(ConfigError, match=r"^use_dpo=True: .* set pruning_method=hold and leave out sparsity$"):
    pyconfig.initialize_pydantic(command_line(**PREFERENCES, **SPARSE))


def test_training_on_preferences_needs_zeros_to_hold(command_line, get_optimizer):
  from maxtext.configs import pyconfig

  config = pyconfig.initialize_pydantic(command_line(**PREFERENCES, **ACTIVE["hold"]))
  with pytest.raises(ConfigError, match=r"^pruning_method=hold: no prunable weight is zero, .* load_parameters_path"):
    get_optimizer(config, 0.1, Model())


def test_training_on_preferences_masks_the_gradients_of_its_forward_pass_and_holds_the_zeros(command_line, get_optimizer):
  """`test_preferences` trains; here is what its hooks do, without tunix."""
  from maxtext.configs import pyconfig

  config = pyconfig.initialize_pydantic(command_line(**PREFERENCES, **ACTIVE["hold"]))
  model = Model(config)
  model.mlp.kernel.set_value(model.mlp.kernel.get_value().at[:3].set(0))
  before = model.mlp.kernel.get_value()
  forward = preference_hooks.mask_forward_pass(lambda self, x: jnp.sum(self.mlp(x) ** 3))
  gradients = nnx.grad(forward)(model, jnp.ones((2, 8)))
  np.testing.assert_array_equal(gradients.mlp.kernel.get_value() == 0, before == 0)
  np.testing.assert_array_equal(model.mlp.kernel.get_value(), before)
  optimizer = nnx.Optimizer(model, get_optimizer(config, 0.1, model), wrt=nnx.Param)
  optimizer.update(model, jax.tree.map(jnp.ones_like, gradients))
  after = model.mlp.kernel.get_value()
  np.testing.assert_array_equal(after == 0, before == 0)
  assert jnp.all(after[3:] != before[3:])
  dense = Model(pyconfig.initialize_pydantic(command_line(**PREFERENCES)))
  dense.mlp.kernel.set_value(before)
  assert jnp.all(nnx.grad(forward)(dense, jnp.ones((2, 8))).mlp.kernel.get_value() != 0)


def test_a_logger_with_the_pydantic_config_describes_its_run(command_line):
  """As tunix trainers have it: this config has its values as attributes, and no `get_keys`."""
  from maxtext.configs import pyconfig

  described = []
  write_setup_info = sink_hooks.describe_run(lambda self, params: described.append(params))
  write_setup_info(SimpleNamespace(config=pyconfig.initialize_pydantic(command_line())), "params")
  assert described == ["params"]


@pytest.mark.parametrize("way", ACTIVE)
def test_distillation_brings_no_model(command_line, get_optimizer, way):
  from maxtext.configs import pyconfig

  get_optimizer(pyconfig.initialize(command_line()), 0.1, model=None)
  config = pyconfig.initialize(command_line(**ACTIVE[way]))
  with pytest.raises(ConfigError, match=OPENING[way] + "this trainer has a train step of its own"):
    get_optimizer(config, 0.1, model=None)


@pytest.mark.parametrize("way", ACTIVE)
def test_the_optimizer_says_so_where_another_step_calls_it(command_line, get_optimizer, way):
  """As MaxText's training engine and its experimental GRPO trainer do."""
  from maxtext.configs import pyconfig

  model = Model()
  weights = nnx.as_pure(nnx.state(model, nnx.Param))
  gradients = jax.tree.map(jnp.ones_like, weights)
  dense = get_optimizer(pyconfig.initialize(command_line()), 0.1, model)
  dense.update(gradients, dense.init(weights), weights)
  sparse = get_optimizer(pyconfig.initialize(command_line(**ACTIVE[way])), 0.1, model)
  with pytest.raises(ConfigError, match=r"^sparsity: this trainer has a train step of its own"):
    sparse.update(gradients, sparse.init(weights), weights)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # MaxText's own, where it reads a config for RL
@pytest.mark.parametrize("way", ACTIVE)
def test_reinforcement_learning_takes_its_configs_where_the_keys_are_refused(command_line, tmp_path, way):
  """Its optimizer is one of its own. The section `rl`, by which it is refused earlier, may be missing from a config."""
  from maxtext.configs import types
  from maxtext.utils.model_creation_utils import setup_configs_and_devices

  stock = stock_file("post_train/rl.yml")
  assert stock is not None
  content = {key: value for key, value in read_config(stock).items() if key != "rl"}
  content |= {"base_config": "base.yml"} if "base_config" in content else {}
  (tmp_path / "rl.yml").write_text(dump(content))
  setup = lambda **keys: setup_configs_and_devices(
    ["train_rl.py", str(tmp_path / "rl.yml"), *command_line(**keys)[1:]],
    **({"config_class": types.RLConfig} if hasattr(types, "RLConfig") else {}),
  )
  trainer, *_ = setup()
  assert trainer.sparsity == 0.0
  with pytest.raises(ConfigError, match=OPENING[way] + "RL trainers build an optimizer of their own"):
    setup(**ACTIVE[way])
