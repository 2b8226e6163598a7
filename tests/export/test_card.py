"""The model card: Hugging Face's metadata, the certificate's figures as tables, and the figure of densities."""

import json

import pytest
import yaml

from maxtext_sparse.export.card import model_card
from maxtext_sparse.export.write import export_checkpoint
from tests.export.models import config_of, random_parameters, save_run, SHAPE


def cells(card, first):
  """The cells of the table's row that begins so."""
  (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
  return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def card(exported):
  return (exported / "README.md").read_text()


@pytest.fixture(scope="module")
def claims(exported):
  return json.loads((exported / "sparsity.json").read_text())


def test_the_metadata_are_what_the_hub_reads(card):
  metadata = yaml.safe_load(card.split("---")[1])
  assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "text-generation"
  assert {"maxtext", "sparse", "pruning"} <= set(metadata["tags"])


def test_the_tables_hold_the_certificates_figures(card, claims):
  assert cells(card, "parameters")[1] == f"{claims['total']:,}"
  assert cells(card, "of these not zero")[1] == f"{claims['nonzero']:,} ({claims['density']:.2%})"
  layers = [matrix["density"] for matrix in claims["matrices"] if "up_proj" in matrix["name"]]
  assert len(layers) == SHAPE.num_layers
  mean, least, most = (f"{value:.2%}" for value in (sum(layers) / 3, min(layers), max(layers)))
  assert cells(card, "mlp.up_proj") == ["mlp.up_proj", f"{3 * 32 * 64:,}", mean, least, most]


def test_the_figure_of_densities_is_in_the_folder_and_on_the_card(card, exported):
  assert "](density.png)" in card
  assert (exported / "density.png").read_bytes().startswith(b"\x89PNG")


def test_training_facts_have_rows_where_they_are_known(claims):
  known = {"average_params": 1234.5, "effective_flops": 4e9, "tokens": 5_000_000, "eval_loss": 3.07654, "step": 499}
  training = known | {"schedule": "3 events", "versions": {"maxtext": "0.2.5", "maxtext_sparse": "0.1.0", "jax": "0.10"}}
  card = model_card(claims | {"training": training}, has_figure=False)
  assert cells(card, "training tokens")[1] == "5,000,000"
  assert cells(card, "final eval loss (nats per token)")[1] == "3.0765"
  assert (cells(card, "MaxText")[1], cells(card, "maxtext-sparse")[1]) == ("0.2.5", "0.1.0")
  assert "density.png" not in card
  assert "training tokens" not in model_card(claims | {"training": {}}, has_figure=False)


def test_a_dense_model_is_called_dense(tmp_path):
  parameters = {path: value + (value == 0) for path, value in random_parameters().items()}
  export_checkpoint(str(save_run(tmp_path / "run", parameters, config_of(SHAPE))), str(tmp_path / "hf"), [])
  card = (tmp_path / "hf" / "README.md").read_text()
  assert "# A dense language model" in card and "removed" not in card
  assert yaml.safe_load(card.split("---")[1])["tags"] == ["maxtext", "maxtext-sparse"]


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_bitmask_card_documents_its_fields(claims, is_compressed):
  card = model_card(claims | {"format": "bitmask", "is_compressed": is_compressed}, has_figure=False)
  assert "`NAME.bitmask`" in card and "load_dense" in card
  assert ("`NAME.planes`" in card) == is_compressed
