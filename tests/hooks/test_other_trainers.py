"""Trainers without MaxText's own train step: a sparse run is refused in one line, a dense run is left alone.

None of them may take the sparsity keys and train dense.
"""

from types import SimpleNamespace

from flax import nnx
import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse import hooks
from maxtext_sparse.config_files import dump, read_config, stock_file
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks import sink_hooks
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


@pytest.mark.parametrize("way", ACTIVE)
def test_tunix_trainers_for_instructions_and_preferences_bring_the_pydantic_config(command_line, get_optimizer, way):
  from maxtext.configs import pyconfig

  get_optimizer(pyconfig.initialize_pydantic(command_line()), 0.1, object())
  config = pyconfig.initialize_pydantic(command_line(**ACTIVE[way]))
  with pytest.raises(ConfigError, match=OPENING[way] + "this trainer has a train step of its own"):
    get_optimizer(config, 0.1, object())


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


class Model(nnx.Module):
  """What is enough of a model to build an optimizer for."""

  def __init__(self):
    self.mlp = nnx.Linear(8, 8, rngs=nnx.Rngs(0))


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
