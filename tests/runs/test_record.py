"""The folder `sparsity` of a run: what was written comes back; a damaged or foreign file is named in one line."""

import json

import pytest

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule

PLAN = Plan(Schedule(12, (3, 6), (0.5, 0.25)), ("a/kernel", "b/kernel"), 40, begin_step=2, begin_active=39)
EVENT = {"density": 0.5, "target_density": 0.5, "nonzero_prunable": 20, "threshold": 0.25, "matrices": {"a/kernel": 0.5}}


@pytest.fixture
def record(tmp_path):
  return RunRecord(str(tmp_path))


def test_plan_and_events_come_back_as_written(record):
  assert record.read_plan() is None and record.read_event(3) is None and record.last_event(before=100) is None
  record.write_plan(PLAN)
  record.write_event(3, EVENT)
  record.write_event(6, EVENT)
  assert record.read_plan() == PLAN
  assert record.read_event(3) == {"step": 3} | EVENT
  assert record.last_event(before=6) == {"step": 3} | EVENT
  assert record.last_event(before=7) == {"step": 6} | EVENT
  assert record.last_event(before=3) is None


def test_versions_come_back_as_written(record, tmp_path):
  assert record.read_versions() == {}
  record.write_versions({"maxtext": "0.2.5", "jax": "0.10.2"})
  assert record.read_versions() == {"maxtext": "0.2.5", "jax": "0.10.2"}
  (tmp_path / "sparsity" / "versions.json").write_text("{")
  with pytest.raises(ConfigError, match=r"versions\.json: not a record of versions \("):
    record.read_versions()


def test_a_process_that_is_not_the_writer_changes_nothing(record, tmp_path):
  record.write_event(3, EVENT)
  reader = RunRecord(str(tmp_path), is_writer=False)
  reader.write_plan(PLAN)
  reader.write_event(6, EVENT)
  reader.drop_events(0)
  assert [path.name for path in (tmp_path / "sparsity").iterdir()] == ["event_00000003.json"]


def test_events_from_a_step_on_are_dropped(record):
  for step in (3, 6, 9):
    record.write_event(step, EVENT)
  record.drop_events(6)
  assert record.last_event(before=100)["step"] == 3


DAMAGES = {
  "cut in half": '{"step": 3, "dens',
  "empty": "",
  "a list": "[1, 2]",
  "another object": '{"step": 3, "loss": 2.5}',
  "not text": b"\xff\xfe\x00",
  "nested too deeply": "[" * 100_000,
}
WRONG = {
  "step": '"three"',
  "density": "null",
  "nonzero_prunable": "0.5",
  "threshold": "[]",
  "matrices": "5",
  "active_sum": '"many"',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_event_is_named_in_one_line(record, tmp_path, damage):
  record.write_event(3, EVENT)
  overwrite(tmp_path / "sparsity" / "event_00000003.json", DAMAGES[damage])
  with pytest.raises(ConfigError) as error:
    record.last_event(before=10)
  told = str(error.value)
  assert "event_00000003.json: not an event record (" in told and told.endswith("), restore it or move it away")
  assert "\n" not in told


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_in_an_event_is_named(record, tmp_path, key):
  record.write_event(3, EVENT)
  path = tmp_path / "sparsity" / "event_00000003.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {key: json.loads(WRONG[key])}))
  with pytest.raises(ConfigError, match=rf"event_00000003.json: not an event record \({key}="):
    record.read_event(3)


def test_an_event_under_the_name_of_another_step_is_named(record, tmp_path):
  record.write_event(3, EVENT)
  (tmp_path / "sparsity" / "event_00000003.json").rename(tmp_path / "sparsity" / "event_00000004.json")
  with pytest.raises(ConfigError, match=r"event_00000004.json: .* \(step=3, its name says 4\)"):
    record.read_event(4)


def test_a_file_in_the_place_of_the_folder_is_one_line(record, tmp_path):
  (tmp_path / "sparsity").write_text("")
  with pytest.raises(RunError, match=r"sparsity/event_00000003.json: cannot write \(.*\); the same command goes on"):
    record.write_event(3, EVENT)


@pytest.mark.parametrize("name", ["event_x.json", "event_3.json", "event_00000003 (1).json", "event_00000003.json.bak"])
def test_a_stray_file_is_named_in_one_line(record, tmp_path, name):
  record.write_event(3, EVENT)
  (tmp_path / "sparsity" / name).write_text("{}")
  for call in (record.drop_events, record.last_event):
    with pytest.raises(ConfigError) as error:
      call(10)
    told = f"{name}: not the name of an event record, such as event_00001200.json; move it away"
    assert str(error.value).endswith(told)


def test_a_folder_in_the_place_of_an_event_is_one_line(record, tmp_path):
  (tmp_path / "sparsity" / "event_00000003.json" / "below").mkdir(parents=True)
  with pytest.raises(ConfigError, match=r"event_00000003.json: not an event record \(Is a directory\), restore"):
    record.last_event(10)
  with pytest.raises(RunError, match=r"event_00000003.json: cannot remove this record, .* \(Directory not empty\)"):
    record.drop_events(0)


def test_a_density_that_is_no_number_is_named(record):
  record.write_event(3, EVENT | {"matrices": {"a/kernel": "half"}})
  with pytest.raises(
    ConfigError, match=r"event_00000003.json: not an event record \(the density of a/kernel is 'half'\)"
  ):
    record.read_event(3)


def test_files_of_others_are_listed_and_left_alone(record, tmp_path):
  record.write_plan(PLAN)
  record.write_config({"steps": 12})
  record.write_versions({"maxtext": "0.2.5"})
  record.write_event(3, EVENT)
  for name in ("notes.txt", ".event_00000006.json.tmp"):
    (tmp_path / "sparsity" / name).write_text("")
  assert record.foreign_files() == ["notes.txt"]
  assert record.recorded_steps() == [3]


BEYOND = '{"schedule": {"steps": 2, "event_steps": [5], "densities": [0.5]}, "prunable": [], "num_prunable": 1}'


@pytest.mark.parametrize("damage", [*DAMAGES.values(), BEYOND])
def test_a_damaged_schedule_is_named_in_one_line(record, tmp_path, damage):
  record.write_plan(PLAN)
  overwrite(tmp_path / "sparsity" / "schedule.json", damage)
  with pytest.raises(ConfigError) as error:
    record.read_plan()
  told = str(error.value)
  assert "schedule.json: not a schedule record (" in told and told.endswith("), restore it or move it away")
  assert "\n" not in told


def overwrite(path, content) -> None:
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
