"""Models that MaxText's own conversion tables describe: Gemma, Qwen, Mixtral and others, of any size.

MaxText keeps four tables by model name: which Hugging Face tensor a parameter becomes, how its values change on the way,
the shapes of the tensors, and a config. They are used one parameter at a time, where MaxText's own script holds the whole
model twice. A family is exported only if a tiny model of it was compared with transformers, see `CHECKED`.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import copy
import dataclasses
import json
import logging
import sys
import types
from typing import Any

import ml_dtypes
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.llama import EMBEDDING

# Beginnings of the model names whose logits agree with transformers' for tiny models (tests/export/test_families.py).
CHECKED: tuple[str, ...] = ("gemma2-", "gemma3-", "qwen3-", "mixtral-", "deepseek2-")
_HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class _Tables:
  """MaxText's tables for one model: by MaxText key (or several), by Hugging Face name, and the config."""

  targets: Mapping[Any, Any]
  hooks: Mapping[Any, Any]
  shapes: Mapping[Any, Sequence[int]]
  config: dict[str, Any]


class TableFamily:
  """A model of one of MaxText's tables, with the sizes of its own config."""

  def __init__(self, flat: Mapping[str, Any], checkpoint: Checkpoint, dtype: str):
    """Reads the tables and checks that they cover the checkpoint.

    Raises:
      ConfigError: no table for this model, or a parameter that the table does not know.
    """
    name = str(flat["model_name"])
    if not name.startswith(CHECKED):
      known = ", ".join(prefix + "*" for prefix in CHECKED)
      raise ConfigError(f"model_name={name}: not exported; the LLaMA-2 family and {known} are, checked with transformers")
    # Values keep their dtype until they are written.
    self._config = types.SimpleNamespace(**{**flat, "weight_dtype": None})
    self._tables = _read_tables(name, self._config)
    self._keys = {_table_key(path): path for path in checkpoint.leaves}
    self._covered = self._covered_keys()
    self.shapes: Mapping[str, tuple[int, ...]] = self._all_shapes()
    self.config = _folder_config(self._tables.config, flat) | {"dtype": dtype, "torch_dtype": dtype}
    self.notes: list[str] = [f"model_name={name}: mapped by MaxText's own conversion tables"]
    self._has_rounded_head = bool(self.config.get("tie_word_embeddings")) and dtype != "bfloat16"
    if self._has_rounded_head:
      self.shapes = {**self.shapes, _HEAD: self.shapes[self._embedding]}
      self.config["tie_word_embeddings"] = False
      self.notes.append(f"the tied head, which MaxText computes in bfloat16, is a head of its own in the {dtype} folder")

  def tensors(self, checkpoint: Checkpoint) -> Iterator[tuple[str, str, NDArray[Any]]]:
    for key in self._covered:
      # A generator of its own: nothing of one array is held while the next one is read.
      yield from self._tensors_of(key, checkpoint)

  def _tensors_of(self, key: Any, checkpoint: Checkpoint) -> Iterator[tuple[str, str, NDArray[Any]]]:
    import jax
    from maxtext.checkpoint_conversion.utils.utils import process_maxtext_param

    parts = [jax.numpy.asarray(checkpoint.read(self._keys[part])) for part in _parts(key)]
    value = parts if isinstance(key, tuple) else parts[0]
    with _quiet():
      tables = self._tables
      converted = process_maxtext_param(key, value, tables.targets, tables.hooks, tables.shapes, self._config)
    path = self._keys[_parts(key)[0]]
    for table_name, array in converted:
      name = _text_name(table_name)
      yield path, name, array
      if name == self._embedding and self._has_rounded_head:
        yield path, _HEAD, array.astype(ml_dtypes.bfloat16)

  @property
  def _embedding(self) -> str:
    return _text_name(self._tables.targets[_table_key(EMBEDDING)])

  def _covered_keys(self) -> list[Any]:
    """The table's keys that the checkpoint has; refuses a parameter that is in no key."""
    covered = [key for key in self._tables.targets if all(part in self._keys for part in _parts(key))]
    known = {part for key in covered for part in _parts(key)}
    missing = sorted(path for key, path in self._keys.items() if key not in known)
    if missing:
      raise ConfigError(f"{missing[0]}: unknown to MaxText's conversion table for {self._config.model_name}")
    return covered

  def _all_shapes(self) -> dict[str, tuple[int, ...]]:
    names = [name for key in self._covered for name in _flatten(self._tables.targets[key])]
    return {_text_name(name): tuple(int(size) for size in self._tables.shapes[name]) for name in names}


def _read_tables(name: str, config: Any) -> _Tables:
  """MaxText's tables with the sizes of the run's config in place of the released model's."""
  with _quiet():
    from maxtext.checkpoint_conversion import to_huggingface as script
    from maxtext.checkpoint_conversion.utils.hf_model_configs import HF_MODEL_CONFIGS
    from maxtext.checkpoint_conversion.utils.hf_shape import HF_SHAPE
    from maxtext.checkpoint_conversion.utils.param_mapping import HOOK_FNS, PARAM_MAPPING

    absent = [table for table in (PARAM_MAPPING, HOOK_FNS, HF_SHAPE, HF_MODEL_CONFIGS) if name not in table]
    if absent:
      raise ConfigError(f"model_name={name}: this MaxText has no conversion table for it")
    settings = copy.deepcopy(HF_MODEL_CONFIGS[name])
    script._validate_or_update_architecture(settings, config, override=True)
    if hasattr(settings, "qk_head_dim"):
      settings.qk_head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    if config.rope_type == "yarn":
      script._apply_yarn_rope_config(settings, config)
    # Through JSON, as config.json will be read.
    flat = json.loads(settings.to_json_string(use_diff=False))
    targets = PARAM_MAPPING[name](flat, config, config.scan_layers)
    hooks = HOOK_FNS[name](flat, config, config.scan_layers, saving_to_hf=True)
    for key in [key for key in hooks if isinstance(key, tuple)]:
      # Several parameters become one tensor.
      if key[0] in targets:
        targets[key] = targets[key[0]]
        for part in key:
          targets.pop(part, None)
    return _Tables(targets, hooks, HF_SHAPE[name](flat), flat)


def _folder_config(table_config: dict[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
  """config.json of a language model: the text part of a model that also sees, computing what the run's config says.

  MaxText's script brings the sizes over, not what else decides on the function: those keys are set here.
  """
  from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

  config = dict(table_config.get("text_config") or table_config)
  config.setdefault("tie_word_embeddings", table_config.get("tie_word_embeddings", True))
  config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
  if config.get("layer_types"):
    config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
  for key, value in _function_keys(flat).items():
    # None in the table: this model has no such thing.
    if config.get(key) is not None:
      config[key] = value
  config["rope_parameters"] = _rope_parameters(config["rope_parameters"], flat)
  return config


def _function_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Hugging Face's keys that decide on the function, from a MaxText config."""
  is_by_width = str(flat["model_name"]) == "gemma3-27b"
  return {
    "rms_norm_eps": flat["normalization_layer_epsilon"],
    "sliding_window": flat["sliding_window_size"],
    "attn_logit_softcapping": flat["attn_logits_soft_cap"],
    "final_logit_softcapping": flat["final_logits_soft_cap"],
    # MaxText scales Gemma's queries by the head size, one model's by the width.
    "query_pre_attn_scalar": flat["emb_dim"] // flat["num_query_heads"] if is_by_width else flat["head_dim"],
    # MaxText's gelu is the approximation with tanh.
    "hidden_activation": "gelu_pytorch_tanh",
  }


def _rope_parameters(rope: dict[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
  """Rotary embedding, for models with two kinds of layers one for each kind."""
  if "full_attention" in rope:
    kinds = {kind: _rope_parameters(part, flat) for kind, part in rope.items()}
    if flat["local_rope_max_timescale"] > 0:
      kinds["sliding_attention"]["rope_theta"] = float(flat["local_rope_max_timescale"])
    return kinds
  changed = rope | {"rope_theta": float(flat["rope_max_timescale"])}
  return changed | ({"factor": flat["rope_linear_scaling_factor"]} if rope.get("rope_type") == "linear" else {})


def _text_name(name: str) -> str:
  """A tensor's name in the language model alone, where the table has it as part of a model that also sees."""
  return name.replace("model.language_model.", "model.")


def _table_key(path: str) -> str:
  return "params-" + path.replace("/", "-")


def _parts(key: Any) -> tuple[str, ...]:
  return key if isinstance(key, tuple) else (key,)


def _flatten(names: Any) -> Iterator[str]:
  if isinstance(names, str):
    yield names
  else:
    for part in names or ():
      yield from _flatten(part)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps MaxText's log of every parameter off stdout."""
  disabled = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    with contextlib.redirect_stdout(sys.stderr):
      yield
  finally:
    logging.disable(disabled)
