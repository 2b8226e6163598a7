"""What the MaxText tests share: a tiny model, worker processes, and readers of what a run leaves behind."""

import json
import os
from pathlib import Path
import struct
import subprocess
import sys

import numpy as np

TINY_MODEL = {
  "base_emb_dim": 64,
  "base_num_decoder_layers": 2,
  "base_mlp_dim": 128,
  "base_num_query_heads": 4,
  "base_num_kv_heads": 4,
  "head_dim": 16,
  "vocab_size": 512,
  "max_target_length": 32,
  "dataset_type": "synthetic",
  "steps": 20,
  "learning_rate": 3e-3,
  "enable_checkpointing": False,
  "enable_tensorboard": False,
  "enable_goodput_recording": False,
  "sharding_tolerance": 1.0,
  "dtype": "float32",
  "hardware": "cpu",
  "skip_jax_distributed_system": True,
}
NUM_PRUNABLE = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 64 * 512
# Events at 4, 7, 10, 13 bring a 20-step run to 80 % sparsity.
SPARSE = {"sparsity": 0.8, "gmp_start_step": 4, "gmp_end_step": 13, "gmp_pruning_frequency": 3}


def arguments(out: Path, name: str, **overrides) -> list[str]:
  """Command line of a tiny run with 8 sequences a step on any number of devices."""
  settings = TINY_MODEL | {
    "run_name": name,
    "base_output_directory": out,
    "metrics_file": out / f"{name}.jsonl",
    "jax_cache_dir": cache_directory(),
  }
  return [f"{key}={value}" for key, value in (settings | overrides).items()]


def cache_directory() -> str:
  return os.environ.get("MAXTEXT_SPARSE_TEST_CACHE", str(Path(__file__).parents[2] / ".jax_cache"))


def environment(num_devices: int = 1) -> dict[str, str]:
  root = str(Path(__file__).parents[2])
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": xla_flags(num_devices),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }


def xla_flags(num_devices: int) -> str:
  """The session's own XLA_FLAGS, such as --xla_cpu_max_isa=AVX2, with another number of fake devices."""
  count = "--xla_force_host_platform_device_count"
  kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(f"{count}=")]
  return " ".join([*kept, f"{count}={num_devices}"])


class Server:
  """A Python process that answers each request, one line of JSON, with another."""

  def __init__(self, script: Path, log: Path, num_devices: int = 1):
    self.log = log
    reader, writer = os.pipe()
    with log.open("w") as output:
      self._process = subprocess.Popen(
        [sys.executable, str(script), str(writer)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment(num_devices),
        pass_fds=[writer],
        text=True,
      )
    os.close(writer)
    self._replies = os.fdopen(reader)

  def request(self, request: dict):
    assert self._process.stdin is not None
    self._process.stdin.write(json.dumps(request) + "\n")
    self._process.stdin.flush()
    reply = self._replies.readline()
    assert reply, f"the process died:\n{self.log.read_text()[-3000:]}"
    return json.loads(reply)

  def close(self) -> None:
    assert self._process.stdin is not None
    self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    self._replies.close()


class Worker(Server):
  """A process with `num_devices` fake CPU devices that trains on request."""

  def __init__(self, num_devices: int, log: Path):
    super().__init__(Path(__file__).parent / "worker.py", log, num_devices)
    self.num_devices = num_devices

  def ask(self, call: str, args: list[str], plugin: bool = True, save: Path | None = None, **extra) -> dict:
    return self.request({"call": call, "args": args, "plugin": plugin, "save": save and str(save)} | extra)

  def train(self, out: Path, name: str, plugin: bool = True, **overrides) -> "Result":
    """Trains to the end with the plugin, or as stock MaxText."""
    batch = {"per_device_batch_size": 8 / self.num_devices}
    saved = out / f"{name}.npz"
    reply = self.ask("train", arguments(out, name, **(batch | overrides)), plugin, saved)
    assert "error" not in reply, reply
    return Result(out, name)

  def train_error(self, out: Path, name: str, plugin: bool = True, **overrides) -> dict:
    """The error that a run ends with."""
    reply = self.ask("train", arguments(out, name, **overrides), plugin)
    assert "error" in reply, "the run was expected to fail"
    return reply


class Result:
  """What a finished run left behind."""

  def __init__(self, out: Path, name: str):
    self.folder = out / name
    self.rows = read_rows(out / f"{name}.jsonl")
    self.leaves = dict(np.load(out / f"{name}.npz"))

  @property
  def train_rows(self) -> list[dict]:
    return [row for row in self.rows if "learning/loss" in row]

  @property
  def eval_rows(self) -> list[dict]:
    return [row for row in self.rows if "eval/avg_loss" in row]

  def column(self, name: str) -> list[float]:
    return [row[name] for row in self.train_rows]

  def prunable(self) -> dict[str, np.ndarray]:
    """The prunable weights in the final state."""
    is_prunable = lambda name: ("kernel" in name and "gate" not in name) or "MoeBlock_0/w" in name
    return {name: weight for name, weight in self.weights().items() if is_prunable(name)}

  def weights(self) -> dict[str, np.ndarray]:
    """All variables of the model, of an NNX or a Linen state."""
    return {name: leaf for name, leaf in self.leaves.items() if name.startswith(("model/", "params/"))}

  def num_nonzero(self) -> int:
    return sum(int(np.count_nonzero(w)) for w in self.prunable().values())

  def num_prunable(self) -> int:
    return sum(w.size for w in self.prunable().values())

  def event_files(self) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((self.folder / "sparsity").glob("event_*.json"))]


def event_scalars(content: bytes) -> list[tuple[str, int, float]]:
  """(tag, step, value) of a TensorBoard file: records of length (8 bytes), checksum (4), event, checksum (4)."""
  from tensorboardX.proto import event_pb2

  found = []
  while content:
    (length,) = struct.unpack("<Q", content[:8])
    event = event_pb2.Event.FromString(content[12 : 12 + length])
    found += [
      (value.tag, event.step, value.simple_value) for value in event.summary.value if value.HasField("simple_value")
    ]
    content = content[16 + length :]
  return found


def read_rows(path: Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_leaves(one: Result, other: Result) -> None:
  """Bit for bit, every leaf of the train state."""
  assert one.leaves.keys() == other.leaves.keys()
  for name, leaf in one.leaves.items():
    np.testing.assert_array_equal(leaf, other.leaves[name], err_msg=name)
