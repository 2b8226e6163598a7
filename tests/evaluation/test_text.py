"""The table of an evaluation: a column for each folder, sparse, dense and twin side by side."""

from maxtext_sparse.evaluation.text import print_results

RESULTS = {
  "out/s80-hf": {"next_line": {"acc": 0.41, "acc_stderr": 0.03}, "held_out": {"bits_per_byte": 1.9}},
  "out/dense-hf": {"next_line": {"acc": 0.52, "acc_stderr": 0.035}, "held_out": {"bits_per_byte": 1.7}},
  "out/twin-hf": {"next_line": {"acc": 0.4, "acc_stderr": 0.03}},
}


def printed(capsys, results):
  print_results(results)
  return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_every_folder_has_a_column_with_values_and_standard_errors(capsys):
  header, _, accuracy, bits = printed(capsys, RESULTS)
  assert header == ["task", "metric", "s80-hf", "dense-hf", "twin-hf"]
  assert accuracy == ["next_line", "acc", "0.4100", "±", "0.0300", "0.5200", "±", "0.0350", "0.4000", "±", "0.0300"]
  assert bits == ["held_out", "bits_per_byte", "1.9000", "1.7000", "-"]


def test_folders_of_one_name_are_told_apart_by_their_paths(capsys):
  results = {"a/hf": RESULTS["out/s80-hf"], "b/hf": RESULTS["out/dense-hf"]}
  assert printed(capsys, results)[0][2:] == ["a/hf", "b/hf"]
