"""The command that a pod runs, one line of bash."""

from collections.abc import Mapping, Sequence

from maxtext_sparse.cluster.quoting import kubernetes_literal, shell_word

MODULE = "maxtext_sparse.train"
# As MaxText's own launcher: the host's CPU backend beside the TPU, and the PJRT API of the libtpu in the image.
EXPORTS = {"JAX_PLATFORMS": "tpu,cpu", "ENABLE_PJRT_COMPATIBILITY": "true"}

# Sent SIGTERM, MaxText may save a checkpoint and end with status 0, which would end the workload as done. 143, the status
# of a process that SIGTERM killed, restarts it.
_TRAP = "trap 'kill -TERM $!; preempted=143' TERM"
_WAIT = "wait $!; status=$?; wait; exit ${preempted:-$status}"


def training_command(words: Sequence[str], exports: Mapping[str, str]) -> str:
  """Bash that trains and survives being preempted; ready to be pasted into a manifest.

  Args:
    words: the arguments of `python3 -m maxtext_sparse.train`.
    exports: environment variables of the run.

  Raises:
    ConfigError: a word or a value has a line break.
  """
  export = " ".join(f"{name}={shell_word(value)}" for name, value in exports.items())
  train = " ".join(shell_word(word) for word in words)
  return kubernetes_literal(f"export {export}; {_TRAP}; python3 -m {MODULE} {train} & {_WAIT}")
