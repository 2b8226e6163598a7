"""A config's keys are parsed once and its schedule is built once; objects that are no MaxText config have neither."""

import dataclasses
import types
from unittest import mock

import pytest

from maxtext_sparse import hooks
from maxtext_sparse.hooks import settings
from maxtext_sparse.hooks.settings import settings_of
from tests.hooks.harness import arguments, SPARSE

pytestmark = pytest.mark.release


@pytest.fixture(scope="module", autouse=True)
def hooked():
  with hooks.installed():
    yield


def build(tmp_path, **keys):
  from maxtext.configs import pyconfig

  return pyconfig.initialize(["train.py", *arguments(tmp_path, "settings", **keys)])


@pytest.fixture
def counted(monkeypatch):
  """How often the real functions run."""
  calls = {"parse_keys": 0, "build_schedule": 0}

  def count(name):
    real = getattr(settings, name)

    def counting(*args):
      calls[name] += 1
      return real(*args)

    monkeypatch.setattr(settings, name, counting)

  for name in calls:
    count(name)
  return calls


def test_from_yaml_to_the_optimizer_keys_are_parsed_once_and_the_schedule_is_built_once(tmp_path, counted):
  config = build(tmp_path, **SPARSE, prune_exclude="[query,logits]")
  found = settings_of(config)
  assert found.keys.prune_exclude == ["query", "logits"]
  assert found.schedule.event_steps == (4, 7, 10, 13)
  assert settings_of(config) is found
  assert counted == {"parse_keys": 1, "build_schedule": 1}


def test_a_dense_config_is_parsed_once_and_has_no_schedule(tmp_path, counted):
  config = build(tmp_path)
  assert settings_of(config).schedule is None
  assert settings_of(config) is settings_of(config)
  assert counted == {"parse_keys": 1, "build_schedule": 0}


def test_configs_in_one_process_keep_their_own_settings(tmp_path):
  one, other = build(tmp_path, **SPARSE), build(tmp_path, **(SPARSE | {"sparsity": 0.5}))
  longer = build(tmp_path, **SPARSE, steps=30)
  assert settings_of(one).keys.sparsity == 0.8
  assert settings_of(other).keys.sparsity == 0.5
  assert settings_of(longer).schedule.steps == 30
  assert settings_of(one).schedule.steps == 20


def test_m_variables_count(tmp_path, monkeypatch):
  monkeypatch.setenv("M_SPARSITY", "0.6")
  assert settings_of(build(tmp_path, gmp_pruning_frequency=2)).keys.sparsity == 0.6


def test_the_length_of_the_run_may_come_from_the_learning_rate_schedule(tmp_path):
  config = build(tmp_path, **SPARSE, steps=-1, learning_rate_schedule_steps=40)
  assert settings_of(config).schedule.steps == config.steps == 40


def test_a_config_from_before_this_process_forgot_it_is_parsed_again(tmp_path, monkeypatch, counted):
  config = build(tmp_path, **SPARSE)
  monkeypatch.setattr(settings, "_known", {})
  assert settings_of(config).schedule.event_steps == (4, 7, 10, 13)
  assert settings_of(config) is settings_of(config)
  assert counted == {"parse_keys": 2, "build_schedule": 2}


def test_the_pydantic_config_has_the_settings_too(tmp_path):
  from maxtext.configs import pyconfig

  config = pyconfig.initialize_pydantic(["train.py", *arguments(tmp_path, "settings", **SPARSE)])
  assert settings_of(config).schedule.event_steps == (4, 7, 10, 13)


@dataclasses.dataclass
class Dataclass:
  """A config that compares by value, so that it has no hash and cannot be the key of a dictionary."""

  run_name: str = "mine"
  sparsity: float = 0.8


FOREIGN = {
  "namespace": types.SimpleNamespace(run_name="mine", sparsity=0.8),
  "dataclass": Dataclass(),
  "mock": mock.MagicMock(),
  "mock of a config": mock.MagicMock(spec=["get_keys", "run_name"]),
  "none": None,
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_not_a_maxtext_config_has_no_settings(foreign):
  assert settings_of(FOREIGN[foreign]) is None


@pytest.mark.parametrize("foreign", FOREIGN)
def test_every_hook_passes_it_through_untouched(foreign):
  """Same arguments in, same result out. Hooks on the config loader see no config object, the one on `main` neither."""
  for hook in hooks.fitting_hooks(hooks.maxtext_version()):
    arguments = foreign_arguments(hook.parameters, FOREIGN[foreign])
    if arguments is None:
      continue
    original = lambda *args, **kwargs: [*args, *kwargs.values()]
    passed = hook.wrap(original)(*arguments)
    assert len(passed) == len(arguments) and all(a is b for a, b in zip(passed, arguments)), hook.target


def foreign_arguments(parameters, config):
  """An argument for each parameter, the config among them; None if the function takes none."""
  owner = types.SimpleNamespace(config=config, base=types.SimpleNamespace(config=config))
  known = {"config": config, "self": owner, "immutable_data": {"config": config}}
  known |= {"metrics": {"scalar": {"learning/loss": 1.0}}, "step": 3, "is_train": True, "python_vars": {"step": 19}}
  if not {"config", "self", "immutable_data"} & set(parameters):
    return None
  return [known.get(name, object()) for name in parameters]


def test_maxtexts_own_logger_writes_its_own_row_for_such_a_config(tmp_path):
  """As MaxText's tests use it."""
  from maxtext.common.metric_logger import MetricLogger

  path = tmp_path / "metrics.jsonl"
  logger = MetricLogger.__new__(MetricLogger)
  logger.config = types.SimpleNamespace(metrics_file=str(path), run_name="mine")
  logger.write_metrics_locally({"scalar": {"loss": 1.5}}, 1)
  logger.write_metrics_locally({"scalar": {"loss": 2.5}}, 0)
  assert path.read_text() == '{"loss": 2.5, "step": 0.0, "run_name": "mine"}\n', "stock empties the file at step 0"
