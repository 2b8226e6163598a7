"""The wrapper against the paper's algorithm written out: explicit masks, found by sorting, multiplied into the weights.

The reference follows section 3 of the paper word by word and shares no code with the package: 0/1 masks in the forward
pass, an argsort of all masked weights at each event, clipping and AdamW by their formulas. An event at step t ranks the
weights before that step's update, whose gradients are still those of the old mask, and the forward pass of t+1 is the
first to see the new one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxtext_sparse.pruning.transform import mask_gradients, prune
from maxtext_sparse.schedule import Schedule

VOCAB, WIDTH, HEADS, HIDDEN, LAYERS, LENGTH = 64, 32, 2, 64, 2, 16
STEPS = 64
SCHEDULE = Schedule(STEPS, (10, 20, 30, 40, 50), tuple(0.2 ** (i / 5) for i in range(1, 6)))
LEARNING_RATE, DECAY, CLIP_NORM, B1, B2, EPS = 1e-2, 0.1, 0.3, 0.9, 0.95, 1e-8


# --- a two-layer Llama ------------------------------------------------------------------------------------------------


def is_prunable(path: str) -> bool:
  return path.endswith("kernel")


def init_params(rng):
  kernel = lambda rows, columns: {"kernel": jnp.asarray(rng.normal(size=(rows, columns)) / rows**0.5, jnp.float32)}
  norm = lambda: {"scale": jnp.ones(WIDTH)}
  attention = lambda: {name: kernel(WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
  mlp = lambda: {"wi_0": kernel(WIDTH, HIDDEN), "wi_1": kernel(WIDTH, HIDDEN), "wo": kernel(HIDDEN, WIDTH)}
  layer = lambda: {"attention": attention(), "attention_norm": norm(), "mlp": mlp(), "mlp_norm": norm()}
  return {
    "embedder": {"embedding": jnp.asarray(rng.normal(size=(VOCAB, WIDTH)), jnp.float32)},
    **{f"layers_{i}": layer() for i in range(LAYERS)},
    "norm": norm(),
    "logits_dense": kernel(WIDTH, VOCAB),
  }


def rms_norm(p, x):
  return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * p["scale"]


def attend(p, x):
  heads = lambda name: jnp.reshape(x @ p[name]["kernel"], (*x.shape[:2], HEADS, -1))
  scores = jnp.einsum("bqhd,bkhd->bhqk", heads("query"), heads("key")) * (WIDTH / HEADS) ** -0.5
  weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e9))
  return jnp.reshape(jnp.einsum("bhqk,bkhd->bqhd", weights, heads("value")), x.shape) @ p["out"]["kernel"]


def feed_forward(p, x):
  return (jax.nn.silu(x @ p["wi_0"]["kernel"]) * (x @ p["wi_1"]["kernel"])) @ p["wo"]["kernel"]


def loss_fn(params, tokens):
  """Mean next-token cross entropy; tokens is (batch, LENGTH + 1)."""
  x = params["embedder"]["embedding"][tokens[:, :-1]]
  for layer in (params[f"layers_{i}"] for i in range(LAYERS)):
    x = x + attend(layer["attention"], rms_norm(layer["attention_norm"], x))
    x = x + feed_forward(layer["mlp"], rms_norm(layer["mlp_norm"], x))
  logits = rms_norm(params["norm"], x) @ params["logits_dense"]["kernel"]
  return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def batches():
  """Sequences in which the next token is a fixed permutation of the last, one time in eight a random one."""
  rng = np.random.default_rng(7)
  successor = rng.permutation(VOCAB)
  for _ in range(STEPS):
    tokens = rng.integers(VOCAB, size=(8, LENGTH + 1))
    for t in range(LENGTH):
      tokens[:, t + 1] = np.where(rng.random(8) < 1 / 8, tokens[:, t + 1], successor[tokens[:, t]])
    yield jnp.asarray(tokens)


@dataclasses.dataclass
class Record:
  """What a step leaves behind: the loss and unclipped gradient norm of its forward pass, and the weights after it."""

  loss: float
  grad_norm: float
  weights: list[np.ndarray]

  @property
  def masks(self) -> list[np.ndarray]:
    return [w != 0 for w in self.weights]


def prunable_arrays(params) -> list[np.ndarray]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return [np.asarray(leaf) for path, leaf in leaves if path[-1].key == "kernel"]


# --- the paper's algorithm, word by word ------------------------------------------------------------------------------


@jax.jit
def reference_gradients(weights, masks, tokens):
  masked_loss = lambda weights: loss_fn(jax.tree.map(jnp.multiply, weights, masks), tokens)
  loss, grads = jax.value_and_grad(masked_loss)(weights)
  return loss, grads, jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))


def clip(grads, norm):
  scale = min(1.0, CLIP_NORM / float(norm))
  return jax.tree.map(lambda g: g * scale, grads)


@jax.jit
def reference_adamw(weights, grads, mu, nu, step):
  mu = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, mu, grads)
  nu = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, nu, grads)
  m_hat = jax.tree.map(lambda m: m / (1 - B1 ** (step + 1)), mu)
  v_hat = jax.tree.map(lambda v: v / (1 - B2 ** (step + 1)), nu)
  new = lambda w, m, v: w - LEARNING_RATE * (m / (jnp.sqrt(v) + EPS) + DECAY * w)
  return jax.tree.map(new, weights, m_hat, v_hat), mu, nu


def sorted_masks(weights, density: float):
  """Masks that keep the largest weights of all kernels together; all ones for what is not a kernel."""
  magnitudes = np.concatenate([np.abs(w).ravel() for w in prunable_arrays(weights)])
  keep = np.ones(magnitudes.size, np.float32)
  keep[np.argsort(magnitudes)[: round((1 - density) * magnitudes.size)]] = 0
  masks = iter(np.split(keep, np.cumsum([w.size for w in prunable_arrays(weights)])))
  mask_of = lambda path, w: jnp.asarray(next(masks).reshape(w.shape)) if path[-1].key == "kernel" else jnp.ones_like(w)
  return jax.tree_util.tree_map_with_path(mask_of, weights)


@functools.cache
def reference_run() -> list[Record]:
  weights = init_params(np.random.default_rng(0))
  masks, mu, nu = (jax.tree.map(fill, weights) for fill in (jnp.ones_like, jnp.zeros_like, jnp.zeros_like))
  densities, records = dict(zip(SCHEDULE.event_steps, SCHEDULE.densities)), []
  for step, tokens in enumerate(batches()):
    loss, grads, norm = reference_gradients(weights, masks, tokens)
    grads = clip(grads, norm)
    if step in densities:
      masks = sorted_masks(jax.tree.map(jnp.multiply, weights, masks), densities[step])
    weights, mu, nu = reference_adamw(weights, grads, mu, nu, step)
    weights = jax.tree.map(jnp.multiply, weights, masks)
    records.append(Record(float(loss), float(norm), prunable_arrays(weights)))
  return records


# --- the same run with the package ------------------------------------------------------------------------------------


TX = prune(optax.adamw(LEARNING_RATE, b1=B1, b2=B2, eps=EPS, weight_decay=DECAY), SCHEDULE, is_prunable)
CLIPPING = optax.clip_by_global_norm(CLIP_NORM)


@jax.jit
def train_step(params, state, tokens, schedule_step, is_masked):
  masked_loss = lambda params: loss_fn(mask_gradients(params, is_prunable, is_masked), tokens)
  loss, grads = jax.value_and_grad(masked_loss)(params)
  clipped, _ = CLIPPING.update(grads, CLIPPING.init(params))
  updates, state = TX.update(clipped, state, params, step=schedule_step)
  return optax.apply_updates(params, updates), state, loss, optax.tree.norm(grads)


@functools.cache
def package_run(first_masked_step: int = SCHEDULE.first_masked_step, steps_early: int = 0) -> list[Record]:
  params = init_params(np.random.default_rng(0))
  state, records = TX.init(params), []
  for step, tokens in enumerate(batches()):
    is_masked = step >= first_masked_step
    params, state, loss, norm = train_step(params, state, tokens, step + steps_early, is_masked)
    records.append(Record(float(loss), float(norm), prunable_arrays(params)))
  return records


def column(records, name: str) -> np.ndarray:
  return np.array([getattr(record, name) for record in records])


def num_live(record: Record) -> int:
  return sum(int(mask.sum()) for mask in record.masks)


# --- they agree -------------------------------------------------------------------------------------------------------


def test_the_run_is_one_on_which_agreement_means_something():
  reference = reference_run()
  size = sum(w.size for w in reference[0].weights)
  assert [num_live(reference[step]) for step in (9, 10, 50, 63)] == [
    size,
    size - round((1 - 0.2**0.2) * size),
    size - round(0.8 * size),
    size - round(0.8 * size),
  ]
  assert (column(reference, "grad_norm") > CLIP_NORM).all()
  assert reference[-1].loss < reference[0].loss - 1.0


def test_masks_are_identical_after_every_step():
  for ours, theirs in zip(package_run(), reference_run()):
    for mask, reference_mask in zip(ours.masks, theirs.masks):
      np.testing.assert_array_equal(mask, reference_mask)


def test_losses_agree_at_every_step():
  np.testing.assert_allclose(column(package_run(), "loss"), column(reference_run(), "loss"), rtol=1e-5)


def test_gradient_norms_and_so_clip_scales_agree_at_every_step():
  np.testing.assert_allclose(column(package_run(), "grad_norm"), column(reference_run(), "grad_norm"), rtol=1e-5)


def test_weights_agree_at_the_end():
  for ours, theirs in zip(package_run()[-1].weights, reference_run()[-1].weights):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# --- and they would not if a detail were wrong ------------------------------------------------------------------------


def test_without_masked_gradients_the_gradient_norms_differ():
  dense_norms = column(package_run(first_masked_step=STEPS), "grad_norm")
  reference = column(reference_run(), "grad_norm")
  np.testing.assert_allclose(dense_norms[:11], reference[:11], rtol=1e-5)
  assert (dense_norms[51:] > 1.1 * reference[51:]).all()


def test_events_a_step_early_give_other_masks():
  ours, theirs = package_run(steps_early=1)[-1], reference_run()[-1]
  assert num_live(ours) == num_live(theirs)
  assert any((mask != reference_mask).any() for mask, reference_mask in zip(ours.masks, theirs.masks))
