"""The working folder of the bad inputs: a file for each way in which a file can be wrong."""

import json
import os
from pathlib import Path

_COLUMNS = "run,sparsity,dense_params,average_params,final_params,tokens,loss"
_SPEC = "name: s\nbase: good.yml\n"
_EVENT = {"step": 4, "density": 0.5, "nonzero_prunable": 5, "threshold": 0.1, "matrices": {}}


def _table(*rows: str) -> str:
  return "\n".join([_COLUMNS, *rows]) + "\n"


def _dense_runs(number: int) -> list[str]:
  """Rows of dense runs that follow a law, two sizes for each of `number` lengths."""
  rows = []
  for index in range(number):
    for size in (1e6, 4e6):
      tokens = 1e8 * 2**index
      loss = 1.7 + 400 / size**0.34 + 410 / tokens**0.28
      rows.append(f"r{index}-{size:.0e},0,{size:.0f},{size:.0f},{size:.0f},{tokens:.0f},{loss:.4f}")
  return rows


_SHAPE = (
  "base_config: base.yml\nbase_emb_dim: 64\nbase_num_decoder_layers: 2\nbase_mlp_dim: 128\nbase_num_query_heads: 4\n"
  "base_num_kv_heads: 4\nhead_dim: 16\nvocab_size: 512\n"
)

CONFIGS = {
  "good.yml": "base_config: base.yml\nlearning_rate: 0.001\n",
  "other_base.yml": "base_config: good.yml\nlearning_rate: 0.002\n",
  "model.yml": _SHAPE,
  "empty.yml": "",
  "comment.yml": "# nothing\n",
  "binary.yml": b"\x7fELF\x00\xff\xfe",
  "latin.yml": "run_name: \u00e9\n".encode("latin-1"),
  "tabs.yml": "debug:\n\trl: true\n",
  "open.yml": "steps: [1, 2\n",
  "list.yml": "- steps\n",
  "twice.yml": "steps: 1\nsteps: 2\n",
  "numbers.yml": "1: 2\n",
  "self.yml": "base_config: self.yml\n",
  "loop_a.yml": "base_config: loop_b.yml\n",
  "loop_b.yml": "base_config: loop_a.yml\n",
  "orphan.yml": "base_config: gone.yml\n",
  "far.yml": "base_config: /no/such/base.yml\n",
  "based_on_number.yml": "base_config: 5\n",
  "deep.yml": "a: " + "[" * 5000,
  "unknown.yml": "sparsty: 0.8\n",
  "foreign.yml": "learning_rat: 0.8\n",
  "bad_value.yml": "sparsity: 2\n",
  "two.yml": "steps: 1\n---\nsteps: 2\n",
  "code.yml": 'a: !!python/object/apply:os.system ["true"]\n',
}
SPECS = {
  "spec.yml": _SPEC + "axes: {sparsity: [0.5]}\n",
  "spec_unknown.yml": _SPEC + "axs: {sparsity: [0.5]}\n",
  "spec_no_name.yml": "base: good.yml\naxes: {sparsity: [0.5]}\n",
  "spec_bad_name.yml": "name: My Sweep\nbase: good.yml\naxes: {sparsity: [0.5]}\n",
  "spec_no_axes.yml": _SPEC,
  "spec_empty_axis.yml": _SPEC + "axes: {sparsity: []}\n",
  "spec_twice.yml": _SPEC + "axes: {sparsity: [0.5, 0.5]}\n",
  "spec_run_name.yml": _SPEC + "axes: {sparsity: [0.5]}\nset: {run_name: x}\n",
  "spec_run_name_axis.yml": _SPEC + "axes: {run_name: [x, y]}\n",
  "spec_missing_base.yml": "name: s\nbase: missing.yml\naxes: {sparsity: [0.5]}\n",
  "spec_bad_base.yml": "name: s\nbase: open.yml\naxes: {sparsity: [0.5]}\n",
  "spec_where.yml": _SPEC + "axes: {sparsity: [0.5]}\nwhere: sparsity >\n",
  "spec_where_none.yml": _SPEC + "axes: {sparsity: [0.5]}\nwhere: sparsity > 0.9\n",
  "spec_many.yml": _SPEC + f"axes: {{seed: {list(range(300))}, steps: {list(range(1, 301))}}}\n",
  "spec_result_axis.yml": _SPEC + "axes: {loss: [1, 2]}\n",
  "spec_both.yml": _SPEC + "axes: {sparsity: [0.5]}\nset: {sparsity: 0.8}\n",
  "spec_devices.yml": _SPEC + "axes: {sparsity: [0.5]}\ndevices: 0\n",
  "spec_corpus.yml": _SPEC + "axes: {sparsity: [0.5]}\ncorpus: {train_char: 5}\n",
  "spec_bad_sparsity.yml": _SPEC + "axes: {sparsity: [0.5, 1.5]}\n",
  "spec_bad_key.yml": _SPEC + "axes: {sparsity: [0.5]}\nset: {stesp: 5}\n",
}
TABLES = {
  "RUNS.csv": _table(*_dense_runs(6)),
  "empty.csv": "",
  "header.csv": _table(),
  "semicolons.csv": _table("a,0,1e6,1e6,1e6,1e8,3.5").replace(",", ";"),
  "twice.csv": f"{_COLUMNS},loss\n" + "".join(f"{row},3.0\n" for row in _dense_runs(6)),
  "no_loss.csv": "run,sparsity,dense_params,average_params,final_params,tokens\na,0,1e6,1e6,1e6,1e8\n",
  "text_loss.csv": _table("a,0,1e6,1e6,1e6,1e8,high"),
  "negative.csv": _table("a,0,1e6,1e6,1e6,1e8,-3"),
  "percent.csv": _table("a,80,1e6,5e5,2e5,1e8,3"),
  "millions.csv": _table("a,0,1.5,1.5,1.5,1e8,3"),
  "mixed.csv": _table("a,0,1e6,1e6,1e6,1e8,3", "b,0.5,1e6,2e6,5e5,1e8,3"),
  "nan.csv": _table("a,0,1e6,1e6,1e6,1e8,nan"),
  "few.csv": _table("a,0,1e6,1e6,1e6,1e8,3.5"),
  "chinchilla.csv": "params,tokens,loss\n1e6,1e8,3.5\n",
}
FOLDERS = {
  "foreign/notes.txt": "mine\n",
  "bad_sweep/manifest.json": "{",
  "newer_sweep/manifest.json": '{"format": 99}',
  "bad_events/sparsity/event_00000004.json": "{",
  "odd_events/sparsity/event_4.json": json.dumps(_EVENT | {"matrices": {"a": "half"}}),
  "no_matrix/sparsity/event_00000004.json": json.dumps(_EVENT),
  "bad_model/config.json": "{",
  "foreign_tree/maxtext/configs/base.yml": "steps: 1\n",
  "foreign_tree/maxtext/configs/types.py": "steps: int\n",
  "a_file": "text\n",
}


def write_files(folder: Path) -> None:
  """Writes them all. `folder.yml` is a folder and `pipe.yml` a named pipe."""
  for name, content in (CONFIGS | SPECS | TABLES | FOLDERS).items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
  (folder / "folder.yml").mkdir()
  os.mkfifo(folder / "pipe.yml")
