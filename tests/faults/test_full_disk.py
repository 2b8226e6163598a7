"""A disk that is full while a run writes its checkpoints: one line, and the run goes on once there is room."""

import pytest

from tests.disks import fill, grow, mounted, small_disk
from tests.hooks.harness import arguments, assert_same_leaves

__all__ = ["mounted"]

pytestmark = pytest.mark.slow

# A save of the tiny model takes 1.5 MB, and a run of 60 steps with a save at each step 90 MB.
MEGABYTES = 24
EVERY_STEP = {"checkpoint_period": 1}


def end_of(child) -> str:
  """The line with which a command ends. Before it there is what the command shows while it trains."""
  assert child.wait(timeout=300) == 1, child.log.read_text()[-3000:]
  *_, line = lines = child.log.read_text().splitlines()
  assert [line.startswith("maxtext-sparse: error: ") for line in lines].count(True) == 1, lines[-5:]
  return line.removeprefix("maxtext-sparse: error: ")


@pytest.mark.parametrize(("is_async", "option"), [(False, "--progress"), (True, "--progress"), (True, "--no-progress")])
def test_a_disk_that_checkpoints_fill_is_one_line_and_the_run_goes_on(
  nursery, out, settings, whole, mounted, tmp_path, is_async, option
):
  """The log of the bar is on the full disk too. Without the bar, orbax's own log is in the output."""
  name = f"full_{is_async}{option}"
  disk = small_disk(mounted, tmp_path / "disk", MEGABYTES)
  settings = settings | EVERY_STEP | {"async_checkpointing": is_async, "base_output_directory": disk}
  child = nursery.command("train", option, *arguments(out, name, per_device_batch_size=8, **settings))
  line = end_of(child)
  assert option == "--no-progress" or "Traceback" not in child.log.read_text()
  # What met the full disk first: a checkpoint, the log, or the record of an event, which names its file.
  assert str(disk / name) in line and "No space left on device" in line
  assert line.endswith("the same command goes on from the last checkpoint")
  grow(disk, 300)
  assert_same_leaves(whole, nursery.train(out, name, **settings))


def test_a_disk_that_metrics_fill_is_one_line(nursery, out, settings, mounted, tmp_path):
  """Something else fills the disk while the run trains."""
  disk = small_disk(mounted, tmp_path / "disk", MEGABYTES)
  metrics = disk / "metrics.jsonl"
  settings = settings | {"metrics_file": metrics, "enable_checkpointing": False}
  child = nursery.command("train", "--progress", *arguments(out, "full_metrics", per_device_batch_size=8, **settings))
  assert child.wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
  fill(disk)
  line = end_of(child)
  assert line.startswith(f"metrics_file={metrics}: ") and "No space left on device" in line
  assert line.endswith("make room, and start it again")
