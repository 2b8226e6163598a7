"""The hook of the preflight: it shows each program that MaxText's `train_compile` compiles to a listener.

Training does not install it. `preflight.compile` does, in a process of its own.
"""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import functools
import inspect
from typing import Any

from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import Settings, settings_of

# Called with MaxText's config, our settings in it, and the compiled program or the compiler's error.
Listener = Callable[[Any, Settings, Any], None]

_listener: contextvars.ContextVar[Listener | None] = contextvars.ContextVar("maxtext_sparse_compile", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
  """Shows every program that is compiled within the block, or the error, to `listener`."""
  token = _listener.set(listener)
  try:
    yield
  finally:
    _listener.reset(token)


def show_programs(jit_and_compile: Function) -> Function:
  """`train_compile.jit_and_compile`: compiles the whole train step, with our hooks in it, and returns the program."""
  signature = inspect.signature(jit_and_compile)

  def compile_and_show(*args: Any, **kwargs: Any) -> Any:
    listener = _listener.get()
    config = signature.bind(*args, **kwargs).arguments["config"]
    settings = settings_of(config)
    if listener is None or settings is None:
      return jit_and_compile(*args, **kwargs)
    show = functools.partial(listener, config, settings)
    try:
      program = jit_and_compile(*args, **kwargs)
    except Exception as error:
      show(error)
      raise
    show(program)
    return program

  return compile_and_show
