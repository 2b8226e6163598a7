"""The sparsity keys: defaults, refused values, refused combinations."""

import types

import pytest
import yaml

from maxtext_sparse.config import (
  DEFAULTS,
  KEYS,
  keys_of,
  parse_keys,
  refuse_misspelt,
  run_steps,
  SparsityKeys,
)
from maxtext_sparse.errors import ConfigError

# One bad value or more for every key: key, value, what the message must say.
BAD_VALUES = [
  ("sparsity", 1.0, "less than 1"),
  ("sparsity", 1.5, "less than 1"),
  ("sparsity", -0.1, "greater than or equal to 0"),
  ("sparsity", float("nan"), "less than 1"),
  ("sparsity", "most", "valid number"),
  ("sparsity", None, "valid number"),
  ("pruning_method", "magic", "'global_gradual', 'one-shot' or 'hold'"),
  ("pruning_method", "one_shot", "'global_gradual', 'one-shot' or 'hold'"),
  ("pruning_scope", "layer", "'global', 'per_matrix' or 'erk'"),
  ("pruning_structure", "2-4", "must be none, n:m with 0 < n < m such as 2:4, or block:RxC"),
  ("pruning_structure", "2:4:8", "n:m with 0 < n < m"),
  ("pruning_structure", "block:0x4", "block:RxC such as block:16x16"),
  ("pruning_structure", "block:16", "block:RxC such as block:16x16"),
  ("pruning_structure", "4:4", "0 < n < m"),
  ("pruning_structure", "0:4", "0 < n < m"),
  ("pruning_score", "movement", "must be magnitude, magnitude_rms, random, or package.module:function"),
  ("pruning_score", "package.module", "or package.module:function"),
  ("pruning_seed", -1, "greater than or equal to 0"),
  ("pruning_seed", 2**32, "less than 4294967296"),
  ("min_matrix_density", 1.0, "less than 1"),
  ("min_matrix_density", -0.5, "greater than or equal to 0"),
  ("prune_groups", 7, "valid list"),
  ("pruning_schedule", "exponential", "'geometric', 'cubic' or 'linear'"),
  ("gmp_pruning_frequency", 0, "greater than or equal to 1"),
  ("gmp_pruning_frequency", -100, "greater than or equal to 1"),
  ("gmp_pruning_frequency", 2.5, "valid integer"),
  ("gmp_start_step", -2, "greater than or equal to -1"),
  ("gmp_end_step", -2, "greater than or equal to -1"),
  ("gmp_end_step", "last", "valid integer"),
  ("gmp_dense_fraction", 1.25, "less than or equal to 1"),
  ("gmp_dense_fraction", -0.25, "greater than or equal to 0"),
  ("gmp_prune_fraction", 2, "less than or equal to 1"),
  ("gmp_prune_fraction", -1, "greater than or equal to 0"),
  ("gmp_fraction_of", "tokens", "'compute' or 'steps'"),
  ("gmp_reschedule", "perhaps", "valid boolean"),
  ("do_not_prune_kw", 7, "valid string"),
  ("prune_include", ["mlp", "wi_("], "'wi_(' is not a regular expression"),
  ("prune_exclude", "*", "'*' is not a regular expression"),
  ("prune_exclude", 7, "valid list"),
  ("prune_exclude", [7], "valid string"),
]

# Combinations that cannot work: a config, the key=value that the message opens with, what it must say.
BAD_COMBINATIONS = [
  ({"sparsity": 0.5, "gmp_start_step": 5}, "gmp_start_step=5", "gmp_end_step is missing"),
  ({"sparsity": 0.5, "gmp_end_step": 5}, "gmp_end_step=5", "gmp_start_step is missing"),
  ({"sparsity": 0.5, "gmp_start_step": 9, "gmp_end_step": 5}, "gmp_end_step=5", "gmp_start_step=9"),
  ({"sparsity": 0.5, "gmp_dense_fraction": 0.75}, "gmp_prune_fraction=0.5", "1.25, must be at most 1"),
  ({"sparsity": 0.5, "pruning_method": "hold"}, "sparsity=0.5", "set sparsity=0"),
  ({"sparsity": 0.5, "enable_diloco": True}, "enable_diloco=True", "set enable_diloco=False or sparsity=0.0"),
  ({"pruning_method": "hold", "enable_diloco": True}, "enable_diloco=True", "or pruning_method=global_gradual"),
  ({"sparsity": 0.5, "use_dpo": True}, "use_dpo=True", "set pruning_method=hold and leave out sparsity"),
  ({"pruning_structure": "2:4", "use_dpo": True}, "use_dpo=True", "hold and leave out pruning_structure"),
  ({"sparsity": 0.5, "rl": {"num_generations": 4}}, "sparsity=0.5", "RL trainers"),
  ({"sparsity": 0.5, "checkpoint_is_quantized": True}, "checkpoint_is_quantized=True", "float kernels"),
  ({"sparsity": 0.5, "lora": {"enable_lora": True}}, "lora.enable_lora=True", "merge the adapter"),
  ({"sparsity": 0.5, "weight_sparsity_n": 2, "weight_sparsity_m": 4}, "weight_sparsity_n=2", "drop weight_sparsity_n"),
  ({"sparsity": 0.5, "enable_rampup_batch_size": True}, "enable_rampup_batch_size=True", "gmp_fraction_of=steps"),
  ({"sparsity": 0.8, "pruning_structure": "2:4"}, "sparsity=0.8", "pruning_structure=2:4 makes it 0.5, leave it out"),
  ({"pruning_structure": "1:4", "pruning_scope": "erk"}, "pruning_scope=erk", "1:4 gives every matrix one density"),
  ({"pruning_structure": "block:4x4"}, "pruning_structure=block:4x4", "needs a sparsity above 0"),
  ({"sparsity": 0.5, "min_matrix_density": 0.6}, "min_matrix_density=0.6", "must be at most 1 - sparsity = 0.5"),
  (
    {"sparsity": 0.5, "min_matrix_density": 0.1, "pruning_scope": "per_matrix"},
    "min_matrix_density=0.1",
    "pruning_scope=per_matrix sets every matrix's density itself, use global",
  ),
  ({"pruning_structure": "2:4", "min_matrix_density": 0.1}, "min_matrix_density=0.1", "set pruning_structure=none"),
  ({"sparsity": 0.5, "pruning_score": "nowhere:f"}, "pruning_score=nowhere:f", "cannot import nowhere"),
  ({"sparsity": 0.5, "pruning_score": "math:f"}, "pruning_score=math:f", "math has no function f"),
  ({"sparsity": 0.5, "pruning_score": "math:pi"}, "pruning_score=math:pi", "pi is no function, but float"),
  ({"pruning_method": "hold", "pruning_structure": "2:4"}, "pruning_structure=2:4", "set pruning_structure=none"),
  (
    {"sparsity": 0.5, "prune_groups": [{"match": "mlp", "structure": "2:4", "sparsity": 0.8}]},
    "prune_groups[0].sparsity=0.8",
    "prune_groups[0].structure=2:4 makes it 0.5, leave it out",
  ),
  (
    {"sparsity": 0.5, "prune_groups": [{"match": "a"}, {"match": "b", "structure": "2:4", "scope": "erk"}]},
    "prune_groups[1].scope=erk",
    "use global or per_matrix",
  ),
]

# One bad entry of prune_groups: what it is, what the message opens with, what it must say.
BAD_GROUPS = [
  ({"sparsity": 0.5}, "prune_groups[1].match", "is missing, give a regular expression"),
  ({"match": "wi_("}, "prune_groups[1].match='wi_('", "is not a regular expression"),
  ({"match": "mlp", "sparsty": 0.5}, "prune_groups[1].sparsty=0.5", "no such key, did you mean sparsity?"),
  ({"match": "mlp", "sparsity": 1.5}, "prune_groups[1].sparsity=1.5", "less than 1"),
  ({"match": "mlp", "scope": "layer"}, "prune_groups[1].scope='layer'", "'global', 'per_matrix' or 'erk'"),
  ({"match": "mlp", "structure": "4:2"}, "prune_groups[1].structure='4:2'", "n:m with 0 < n < m"),
  ("mlp", "prune_groups[1]='mlp'", "must be a valid dictionary"),
]


def refusal(raw) -> str:
  """The one line with which a config is refused."""
  with pytest.raises(ConfigError) as caught:
    parse_keys(raw)
  message = str(caught.value)
  assert "\n" not in message
  return message


def test_the_defaults_are_the_documented_ones():
  assert DEFAULTS == {
    "sparsity": 0.0,
    "pruning_method": "global_gradual",
    "pruning_scope": "global",
    "pruning_structure": "none",
    "pruning_score": "magnitude",
    "pruning_seed": 0,
    "min_matrix_density": 0.0,
    "prune_groups": [],
    "pruning_schedule": "geometric",
    "gmp_pruning_frequency": 100,
    "gmp_start_step": -1,
    "gmp_end_step": -1,
    "gmp_dense_fraction": 0.25,
    "gmp_prune_fraction": 0.5,
    "gmp_fraction_of": "compute",
    "gmp_reschedule": False,
    "do_not_prune_kw": "",
    "prune_include": [],
    "prune_exclude": [],
  }


def test_an_empty_config_gives_the_defaults():
  assert parse_keys({}).model_dump() == DEFAULTS


def test_keys_of_the_rest_of_maxtext_are_ignored():
  keys = parse_keys({"sparsity": 0.5, "base_emb_dim": 512, "learning_rate": 1e-3})
  assert keys == SparsityKeys(sparsity=0.5)


@pytest.mark.parametrize("key, value, reason", BAD_VALUES)
def test_a_bad_value_is_refused_in_one_line_with_key_value_and_what_would_be_right(key, value, reason):
  message = refusal({key: value})
  shown = value[0] if value == [7] else value
  assert message.startswith(f"{key}={shown!r}: ")
  assert reason in message


def test_every_key_has_a_bad_value_in_this_file():
  assert {key for key, _, _ in BAD_VALUES} == set(KEYS)


@pytest.mark.parametrize("raw, opening, reason", BAD_COMBINATIONS)
def test_a_combination_that_cannot_work_is_refused_in_one_line(raw, opening, reason):
  message = refusal(raw)
  assert message.startswith(f"{opening}: ")
  assert reason in message


@pytest.mark.parametrize("raw", [raw for raw, _, _ in BAD_COMBINATIONS if raw.get("pruning_method") != "hold"])
def test_combinations_are_not_looked_at_while_the_plugin_is_inert(raw):
  stock = {"sparsity": 0.0, "pruning_structure": "none", "prune_groups": []}
  assert not parse_keys(raw | stock).is_active


@pytest.mark.parametrize("key", ["pruning_structure", "do_not_prune_kw", "prune_include", "prune_exclude"])
def test_none_which_maxtext_makes_of_the_word_none_is_the_default(key):
  assert getattr(parse_keys({key: None}), key) == DEFAULTS[key]


@pytest.mark.parametrize(
  "key", ["pruning_method", "pruning_scope", "pruning_score", "pruning_schedule", "gmp_fraction_of"]
)
def test_none_is_not_a_method_to_prune_by(key):
  with pytest.raises(ConfigError, match=f"^{key}=None: must be "):
    parse_keys({key: None})


@pytest.mark.parametrize("key", ["prune_include", "prune_exclude"])
@pytest.mark.parametrize(
  "written, patterns",
  [
    (["mlp", "attention"], ["mlp", "attention"]),
    (("mlp", "attention"), ["mlp", "attention"]),
    ("['mlp', 'attention']", ["mlp", "attention"]),
    (" ['mlp'] ", ["mlp"]),
    ("[]", []),
    ("", []),
    ("mlp/wi_0", ["mlp/wi_0"]),
    ("[a-z]+_0/kernel", ["[a-z]+_0/kernel"]),
    ("(wi|wo)_0", ["(wi|wo)_0"]),
    ("(mlp)", ["(mlp)"]),
    ("(0)", ["(0)"]),
    ("('mlp')", ["('mlp')"]),
  ],
)
def test_patterns_may_be_a_list_a_list_in_a_string_or_one_pattern(key, written, patterns):
  assert getattr(parse_keys({key: written}), key) == patterns


def test_a_default_list_is_not_shared_between_configs():
  parse_keys({}).prune_include.append("mlp")
  assert parse_keys({}).prune_include == []
  assert parse_keys({"prune_include": None}).prune_include == []


@pytest.mark.parametrize(
  "raw, is_active",
  [
    ({}, False),
    ({"pruning_method": "one-shot"}, False),
    ({"gmp_start_step": 3, "gmp_end_step": 9}, False),
    ({"sparsity": 1e-6}, True),
    ({"pruning_method": "hold"}, True),
  ],
)
def test_the_plugin_is_active_where_something_is_to_be_pruned_or_held(raw, is_active):
  assert parse_keys(raw).is_active == is_active


def test_a_structure_survives_yaml_which_reads_it_as_a_base_60_number():
  written = yaml.safe_load("pruning_structure: 2:4")
  assert SparsityKeys(**written).pruning_structure == "2:4"


def test_n_of_m_alone_activates_the_plugin_and_implies_the_sparsity():
  assert SparsityKeys(pruning_structure="2:4").is_active
  assert parse_keys({"pruning_structure": "1:4"}).sparsity == 0.75
  assert parse_keys({"pruning_structure": "2:4", "sparsity": 0.5}).sparsity == 0.5


@pytest.mark.parametrize("group, opening, reason", BAD_GROUPS)
def test_a_bad_group_is_refused_in_one_line_with_its_number(group, opening, reason):
  message = refusal({"sparsity": 0.5, "prune_groups": [{"match": "head"}, group]})
  assert message.startswith(f"{opening}: ") and reason in message


GROUPS = """
  - {match: mlp, structure: 2:4}
  - {match: logits_dense, sparsity: 0}
  - {match: attention, sparsity: 0.6, scope: per_matrix, score: magnitude_rms, schedule: cubic}
"""


@pytest.mark.parametrize("written", [GROUPS, yaml.safe_load(GROUPS)], ids=["text", "list"])
def test_what_a_group_leaves_out_comes_from_the_global_keys(written):
  keys = parse_keys({"sparsity": 0.8, "prune_groups": written})
  assert [(pattern, rule.describe()) for pattern, rule in keys.rules] == [
    ("mlp", "50 % global 2:4"),
    ("logits_dense", "0 % global"),
    ("attention", "60 % per_matrix by magnitude_rms, cubic"),
    (None, "80 % global"),
  ]


def test_a_group_alone_activates_the_plugin():
  assert parse_keys({"prune_groups": [{"match": "mlp", "sparsity": 0.5}]}).is_active
  assert not parse_keys({"prune_groups": [{"match": "mlp"}]}).is_active


def test_the_floor_of_the_global_keys_is_for_groups_that_it_can_hold_in():
  groups = [{"match": "a", "structure": "2:4"}, {"match": "b", "scope": "erk"}, {"match": "c", "sparsity": 0.9}]
  keys = parse_keys({"sparsity": 0.8, "min_matrix_density": 0.1, "prune_groups": groups})
  assert [rule.min_matrix_density for _, rule in keys.rules] == [0.0, 0.0, 0.1, 0.1]


def test_every_key_says_what_it_means():
  for name, field in SparsityKeys.model_fields.items():
    assert field.description and "\n" not in field.description, name


@pytest.mark.parametrize("misspelt, meant", [("sparcity", "sparsity"), ("gmp_pruning_freq", "gmp_pruning_frequency")])
def test_a_misspelt_key_is_refused_with_the_key_that_was_meant(misspelt, meant):
  with pytest.raises(ConfigError, match=f"^{misspelt}=1: no such key, did you mean {meant}"):
    refuse_misspelt({"steps": 5, misspelt: 1}, known={"steps"})


def test_a_key_that_maxtext_knows_is_never_called_misspelt():
  refuse_misspelt({"sparsities": 1, "steps": 5}, known={"sparsities", "steps"})


def test_one_shot_needs_no_end_step():
  keys = parse_keys({"sparsity": 0.5, "pruning_method": "one-shot", "gmp_start_step": 7})
  assert (keys.gmp_start_step, keys.gmp_end_step) == (7, -1)


def test_one_shot_does_not_count_the_prune_fraction_that_it_does_not_use():
  keys = parse_keys({"sparsity": 0.5, "pruning_method": "one-shot", "gmp_dense_fraction": 0.75})
  assert keys.gmp_dense_fraction == 0.75


@pytest.mark.parametrize("dense, pruning", [(0.0, 1.0), (0.25, 0.75), (0.75, 0.25), (0.1, 0.9), (0.7, 0.3)])
def test_fractions_may_add_up_to_the_whole_run(dense, pruning):
  keys = parse_keys({"sparsity": 0.5, "gmp_dense_fraction": dense, "gmp_prune_fraction": pruning})
  assert (keys.gmp_dense_fraction, keys.gmp_prune_fraction) == (dense, pruning)


def test_explicit_steps_make_the_fractions_irrelevant():
  steps = {"gmp_start_step": 10, "gmp_end_step": 20}
  assert parse_keys({"sparsity": 0.5, "gmp_dense_fraction": 1.0, **steps}).gmp_start_step == 10


@pytest.mark.parametrize("how", [{"gmp_start_step": 10, "gmp_end_step": 20}, {"gmp_fraction_of": "steps"}])
def test_batch_rampup_goes_with_events_given_in_steps(how):
  assert parse_keys({"sparsity": 0.5, "enable_rampup_batch_size": True, **how}).is_active


def test_lora_keys_that_are_switched_off_are_fine():
  assert parse_keys({"sparsity": 0.5, "lora": {"enable_lora": False}, "enable_diloco": False}).is_active


def test_keys_of_reads_a_maxtext_config_object():
  flat = {"sparsity": 0.25, "steps": 100, "pruning_schedule": "cubic"}
  keys = keys_of(types.SimpleNamespace(get_keys=lambda: flat))
  assert (keys.sparsity, keys.pruning_schedule) == (0.25, "cubic")


@pytest.mark.parametrize(
  "raw, steps",
  [
    ({"steps": 50, "learning_rate_schedule_steps": 80}, 50),
    ({"steps": -1, "learning_rate_schedule_steps": 80}, 80),
    ({"learning_rate_schedule_steps": 80}, 80),
    ({"steps": "50"}, 50),
  ],
)
def test_the_length_of_a_run_falls_back_to_the_learning_rate_schedule(raw, steps):
  assert run_steps(raw) == steps


@pytest.mark.parametrize("value", ["ten", None, float("inf"), [1]])
def test_a_length_that_is_no_whole_number_is_refused_by_name(value):
  with pytest.raises(ConfigError, match=r"^steps=.*: must be a whole number$"):
    run_steps({"steps": value})
