"""The exact cut: which weights survive, on any mesh, and what the search costs."""

import itertools
import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from maxtext_sparse.pruning.counting import split_count, sum_counts
from maxtext_sparse.pruning.keys import is_zero, magnitude_key, tiebreak_key
from maxtext_sparse.pruning.matrices import index_offsets
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.search import Bracket, narrow
from maxtext_sparse.pruning.threshold import Cut, keep_mask, magnitude_ranking
from maxtext_sparse.pruning.transform import prune
from maxtext_sparse.schedule import Schedule
from tests.pruning.helpers import find_cut, find_masks

pytestmark = pytest.mark.usefixtures("strict_promotion")

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SHAPES = {"matrix": [(24, 16)], "mixed": [(3, 8, 5), (40,), (7, 1, 11), ()], "one weight": [(1,)]}
SMALLEST_NORMAL = np.float32(2.0**-126)


search = jax.jit(find_masks)


def masks_of(weights, num_keep: int) -> list[np.ndarray]:
  _, masks = search([jnp.asarray(w) for w in weights], split_count(num_keep))
  return [np.asarray(mask) for mask in masks]


def flat(arrays) -> np.ndarray:
  return np.concatenate([np.ravel(a) for a in arrays])


# --- the same in numpy, by sorting ------------------------------------------------------------------------------------


def reference_magnitudes(weights) -> np.ndarray:
  magnitudes = np.abs(flat([np.asarray(w).astype(np.float32) for w in weights]))
  return np.where(magnitudes < SMALLEST_NORMAL, np.float32(0), magnitudes)


def reference_hash(index: np.ndarray) -> np.ndarray:
  """The 32-bit finaliser of MurmurHash3, as a signed integer."""
  h = index.astype(np.uint32)
  h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
  return (h ^ (h >> 16)).astype(np.int32)


def reference_mask(weights, num_keep: int) -> np.ndarray:
  """Sorts by magnitude, then hash, both descending, and keeps the first `num_keep` of those that are not zero."""
  magnitudes = reference_magnitudes(weights)
  order = np.lexsort((reference_hash(np.arange(magnitudes.size)), magnitudes))[::-1]
  mask = np.zeros(magnitudes.size, bool)
  mask[order[:num_keep]] = True
  return mask & (magnitudes > 0)


def draw_weights(kind: str, shapes, dtype, seed: int) -> list[np.ndarray]:
  rng = np.random.default_rng(seed)
  tiny = np.float32(2.0**-126)
  values = {
    "normal": lambda n: rng.normal(size=n),
    "few values": lambda n: rng.choice([-1.0, -0.5, 0.5, 1.0], size=n),
    "one value": lambda n: rng.choice([-0.25, 0.25], size=n),
    "mostly zero": lambda n: rng.normal(size=n) * (rng.random(n) < 0.3),
    "signed zeros": lambda n: rng.choice([0.0, -0.0, 3.0, -4.0], size=n),
    "subnormal": lambda n: rng.choice([0.25, 0.5, 1.0, 2.0, -0.5, -4.0], size=n) * tiny,
    "neighbours": lambda n: np.float32(1.0) + rng.integers(0, 40, size=n) * np.finfo(np.float32).eps,
    "huge range": lambda n: rng.normal(size=n) * 2.0 ** rng.integers(-20, 15, size=n),
  }
  return [values[kind](math.prod(shape)).astype(np.float32).reshape(shape).astype(dtype) for shape in shapes]


KINDS = ("normal", "few values", "one value", "mostly zero", "signed zeros", "subnormal", "neighbours", "huge range")
fractions = st.sampled_from(["0", "1", "N-1", "N"]) | st.floats(0, 1)


def to_count(fraction, size: int) -> int:
  named = {"0": 0, "1": 1, "N-1": size - 1, "N": size}
  return named[fraction] if isinstance(fraction, str) else round(fraction * size)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@given(kind=st.sampled_from(KINDS), fraction=fractions, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_mask_is_that_of_a_sort_by_magnitude_and_then_hash(shapes, dtype, kind, fraction, seed):
  weights = draw_weights(kind, shapes, dtype, seed)
  magnitudes = reference_magnitudes(weights)
  num_keep = to_count(fraction, magnitudes.size)
  mask = flat(masks_of(weights, num_keep))
  assert mask.sum() == min(num_keep, (magnitudes > 0).sum())
  assert magnitudes[mask].min(initial=np.inf) >= magnitudes[~mask].max(initial=0)
  np.testing.assert_array_equal(mask, reference_mask(weights, num_keep))


def test_arrays_of_different_types_compete_by_value():
  weights = [np.float32([1.0, 0.1]), np.array([0.5, 0.2], ml_dtypes.bfloat16), np.float16([0.3, 0.05])]
  assert flat(masks_of(weights, 3)).tolist() == [True, False, True, False, True, False]


def test_magnitudes_are_told_apart_to_the_last_bit():
  weights = [(np.float32(1.0) + np.arange(64) * np.finfo(np.float32).eps).astype(np.float32)]
  for num_keep in range(65):
    assert masks_of(weights, num_keep)[0].tolist() == [i >= 64 - num_keep for i in range(64)]


def test_the_weight_whose_key_is_the_cut_survives():
  weights, keys = jnp.ones((100,)), np.asarray(tiebreak_key((100,), 7))
  cut = Cut(magnitude_key(jnp.float32(1.0)), jnp.int32(keys[42]))
  ranking = magnitude_ranking(weights, Parameter("kernel", (100,)), 7)
  np.testing.assert_array_equal(keep_mask(ranking, cut), keys >= keys[42])


@pytest.mark.parametrize("num_keep", range(7))
def test_every_number_of_weights_can_be_kept(num_keep):
  weights = [np.float32([[3, -1, 2], [-6, 5, 4]])]
  expected = np.abs(weights[0]) > 6 - num_keep
  np.testing.assert_array_equal(masks_of(weights, num_keep)[0], expected)


def test_the_threshold_lies_above_what_goes_and_not_above_what_stays():
  weights = draw_weights("normal", [(50, 40)], np.float32, 3)
  cut, (mask,) = search([jnp.asarray(w) for w in weights], split_count(700))
  magnitudes = np.abs(weights[0])
  assert magnitudes[~mask].max() < cut.threshold <= magnitudes[mask].min()
  assert cut.threshold.dtype == jnp.float32


def test_the_threshold_is_the_common_magnitude_where_a_tie_is_broken():
  cut, _ = search([jnp.full((8, 8), -0.375)], split_count(20))
  assert cut.threshold == 0.375


# --- ties -------------------------------------------------------------------------------------------------------------


def test_a_tie_is_broken_by_place_alone():
  masks = [masks_of([np.full((16, 16), value, np.float32)], 100)[0] for value in (1.0, -2.5)]
  np.testing.assert_array_equal(masks[0], masks[1])


def test_broken_ties_spread_over_the_matrix():
  (mask,) = masks_of([np.ones((64, 64), np.float32)], 2_048)
  assert mask.sum() == 2_048
  for share in (mask.mean(axis=0), mask.mean(axis=1)):
    assert share.min() > 0.25 and share.max() < 0.75


def test_tied_arrays_of_equal_shape_are_not_pruned_alike():
  first, second = masks_of([np.ones((16, 16), np.float32)] * 2, 256)
  assert (first != second).sum() > 50


def test_fewer_kept_weights_are_a_subset_of_more():
  weights = draw_weights("few values", [(32, 32)], np.float32, 5)
  masks = [masks_of(weights, num_keep)[0] for num_keep in (100, 101, 400, 900)]
  assert all((fewer <= more).all() for fewer, more in itertools.pairwise(masks))


@pytest.mark.parametrize("offset", [0, 1_000_003, 2**31 - 5_000, 2**32 - 5_000, 2**33 + 17])
def test_no_two_weights_of_ten_thousand_share_a_tiebreak_key(offset):
  keys = np.asarray(tiebreak_key((100, 100), offset))
  assert np.unique(keys).size == keys.size
  np.testing.assert_array_equal(keys.ravel(), reference_hash((np.arange(10_000) + offset) % 2**32))


def test_tiebreak_keys_depend_on_the_row_major_index_and_not_on_the_shape():
  np.testing.assert_array_equal(np.ravel(tiebreak_key((6, 4, 5), 9)), np.ravel(tiebreak_key((120,), 9)))


def test_index_offsets_are_running_sizes():
  parameters = [Parameter(str(i), shape) for i, shape in enumerate([(3, 4), (), (5,), (2,)])]
  assert list(index_offsets(parameters).values()) == [0, 12, 13, 18]


def test_the_search_counts_beyond_2_to_the_31_weights():
  # The keys 0 .. 2^25 - 1, each held by 80 weights; one array stands for all 80.
  num_keep = 80 * (2**25 - 2**22)
  assert num_keep > 2**31
  all_keys = jnp.arange(2**25, dtype=jnp.int32)
  count_reaching = lambda keys: [sum_counts([jnp.sum(all_keys >= key)] * 80) for key in keys]
  bracket = Bracket(jnp.int32(0), jnp.int32(2**31 - 1), split_count(80 * 2**25), split_count(0))
  found = jax.jit(lambda keep: narrow(count_reaching, keep, bracket))(split_count(num_keep))
  assert int(found.low) == 2**22
  assert int(found.reached.high) * 2**16 + int(found.reached.low) == num_keep


# --- zeros and numbers that are none ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_both_zeros_and_subnormals_count_as_zero(dtype):
  weights = np.array([0.0, -0.0, 2.0**-127, -(2.0**-130), 2.0**-126, -(2.0**-126), 1.0], np.float32).astype(dtype)
  expected = [True, True, True, True, False, False, False]
  assert np.asarray(is_zero(jnp.asarray(weights))).tolist() == expected
  assert np.asarray(jax.jit(is_zero)(jnp.asarray(weights))).tolist() == expected


def test_subnormals_of_float16_are_numbers_since_float32_holds_them():
  weights = np.array([2.0**-24, -(2.0**-15), 0.0], np.float16)
  assert np.asarray(jax.jit(is_zero)(jnp.asarray(weights))).tolist() == [False, False, True]


def test_nan_of_either_sign_and_infinity_are_not_zero():
  weights = jnp.array([np.nan, -np.nan, np.inf, -np.inf], jnp.float32)
  assert not is_zero(weights).any()
  assert (magnitude_key(weights) > 0).all()


def test_magnitude_keys_order_like_magnitudes():
  weights = np.float32([0.0, -1e-30, 1e-30 * 1.0001, -3.0, 3.0000002, 1e30, np.inf])
  keys = np.asarray(magnitude_key(jnp.asarray(weights)))
  assert (np.diff(keys) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_leaves_every_nonzero_weight(bad, dtype):
  weights = draw_weights("mostly zero", SHAPES["mixed"], dtype, 11)
  weights[1][4] = bad
  mask = flat(masks_of(weights, 5))
  np.testing.assert_array_equal(mask, reference_magnitudes(weights) != 0)
  assert mask.sum() > 5


@pytest.mark.parametrize("num_keep", [3, 4, 100])
def test_nothing_more_is_removed_where_enough_is_zero_already(num_keep):
  weights = [np.float32([[1, 0, 2], [0, 0, 3]])]
  assert masks_of(weights, num_keep)[0].tolist() == [[True, False, True], [False, False, True]]


# --- on a mesh --------------------------------------------------------------------------------------------------------

SHARDINGS = [
  ("fsdp", "tensor"),
  ("tensor", "fsdp"),
  (("fsdp", "tensor"), None),
  (None, "fsdp"),
  (None, None),
]


def place(weights, mesh, axes) -> list[jax.Array]:
  """Matrices over the given axes; a leading layer axis stays whole."""
  specs = [jax.P(*([None] * (w.ndim - 2)), *axes) for w in weights]
  return [jax.device_put(w, jax.NamedSharding(mesh, spec)) for w, spec in zip(weights, specs)]


@pytest.mark.parametrize("axes", SHARDINGS, ids=str)
def test_the_mask_is_the_same_on_one_device_and_on_eight(mesh, axes):
  shapes = [(16, 24), (3, 8, 8)]
  for kind, num_keep in (("few values", 201), ("one value", 77), ("normal", 300)):
    weights = draw_weights(kind, shapes, ml_dtypes.bfloat16, 17)
    cut, masks = search(place(weights, mesh, axes), split_count(num_keep))
    assert cut.score.sharding.is_fully_replicated
    np.testing.assert_array_equal(flat(masks), reference_mask(weights, num_keep))


# --- what the search costs: the compiled program ----------------------------------------------------------------------

_INSTRUCTION = re.compile(r"=\s(?P<shape>.*?)\s(?P<opcode>[a-z][a-z0-9-]*)\(")
_ARRAY = re.compile(r"\b(?:pred|bf16|[a-z]\d+[a-z0-9]*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(r"^(ragged-)?(all-reduce|all-gather|reduce-scatter|all-to-all|collective-)")


def instructions(hlo: str) -> list[tuple[str, int]]:
  """(opcode, elements of its result) for each instruction of an HLO text; a tuple counts all its arrays."""
  return [(m["opcode"], sum(map(num_elements, _ARRAY.findall(m["shape"])))) for m in read_instructions(hlo)]


def read_instructions(hlo: str) -> list[re.Match]:
  return list(filter(None, map(_INSTRUCTION.search, hlo.splitlines())))


def num_elements(dimensions: str) -> int:
  return math.prod(int(size) for size in dimensions.split(",") if size)


def largest_moves(hlo: str) -> dict[str, int]:
  """Opcode -> largest result, for all instructions that move data between devices or reorder it."""
  moves: dict[str, int] = {}
  for opcode, size in instructions(hlo):
    if _COLLECTIVE.match(opcode) or opcode in ("sort", "gather", "scatter", "concatenate", "custom-call"):
      moves[opcode] = max(size, moves.get(opcode, 0))
  return moves


def compiled_text(function, mesh, *arguments) -> str:
  weights = place([np.ones((256, 128), np.float32), np.ones((2, 128, 64), ml_dtypes.bfloat16)], mesh, ("fsdp", "tensor"))
  return jax.jit(function).lower(weights, *arguments).compile().as_text()


def test_the_search_moves_a_few_scalars_between_devices_and_sorts_nothing(mesh):
  moves = largest_moves(compiled_text(find_cut, mesh, split_count(1_000)))
  assert moves["all-reduce"] <= 16
  assert max(moves.values()) <= 64
  assert "sort" not in moves


def test_a_whole_pruning_update_moves_no_more_than_the_search(mesh):
  tx = prune(optax.sgd(0.1, momentum=0.9), Schedule(9, (2, 4), (0.5, 0.25)), lambda path: True)
  update = lambda weights, step: tx.update(weights, tx.init(weights), weights, step=step)[0]
  moves = largest_moves(compiled_text(update, mesh, 4))
  assert moves["all-reduce"] <= 16
  assert max(moves.values()) <= 64


def test_the_search_stores_nothing_but_the_weights(mesh):
  # Else XLA would compute each weight's magnitude and hash before the loop and keep them: four bytes a weight each.
  loops = [
    m["shape"] for m in read_instructions(compiled_text(find_cut, mesh, split_count(1_000))) if m["opcode"] == "while"
  ]
  stored = [max(map(num_elements, re.findall(r"\b[su]32\[([\d,]*)\]", shape))) for shape in loops]
  assert len(stored) == 2
  assert max(stored) <= 256


def test_the_program_check_above_would_notice_a_gathered_sort(mesh):
  sort_all = lambda weights: jnp.sort(jnp.concatenate([w.astype(jnp.float32).ravel() for w in weights]))
  moves = largest_moves(compiled_text(sort_all, mesh))
  assert moves["sort"] >= 256 * 128
  assert max(size for opcode, size in moves.items() if _COLLECTIVE.match(opcode)) >= 1_000


@pytest.mark.parametrize(
  "line, expected",
  [
    ("  %r.1 = s32[] all-reduce(%a), channel_id=1", ("all-reduce", 1)),
    ("  ROOT %r = (f32[4,8]{1,0:T(8,128)}, /*index=1*/s32[3]{0}) all-reduce-start(%a, %b)", ("all-reduce-start", 35)),
    ("  %g = bf16[256,128]{1,0} all-gather(bf16[64,128]{1,0} %a), dimensions={0}", ("all-gather", 256 * 128)),
    ("  %s = (f32[9]{0}, pred[]) sort(%a, %b), to_apply=%less", ("sort", 10)),
  ],
)
def test_the_program_check_reads_hlo_instructions(line, expected):
  assert instructions(line) == [expected]


def test_the_program_check_skips_lines_that_are_no_instructions():
  assert instructions("ENTRY %main (a: s32[3]) -> (s32[], s32[3]) {\n}\nHloModule jit_f, is_scheduled=true") == []
