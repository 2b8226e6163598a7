"""Does what `docker build` does with `launch/Dockerfile`, without docker: in a folder that stands for the image.

The base image is a new environment with MaxText as MaxText's own Dockerfile leaves it: its packages are installed, its
tree is in /deps, and `PYTHONPATH` leads there. Absolute paths of the image are mapped into the folder.
"""

from collections.abc import Iterator
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

REPO = Path(__file__).parents[2]
DOCKERFILE = REPO / "launch" / "Dockerfile"
_INSTRUCTION = re.compile(r"^([A-Z]+) +((?:.*\\\n)*.*)$", re.MULTILINE)
# Folders of the image that the Dockerfile, the base image and their programs name.
_ABSOLUTE = re.compile(r"(?<![\w./-])/(?=(?:opt|deps|root|usr/local)\b)")
# What a build takes from outside: how to reach a package registry.
_OF_THE_HOST = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT", "REQUESTS_CA")


def read_dockerfile() -> list[tuple[str, str]]:
  """(instruction, its arguments) of each instruction, continuation lines joined."""
  lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
  text = "\n".join(line for line in lines if not line.startswith("#"))
  return [(match[1], match[2].replace("\\\n", " ")) for match in _INSTRUCTION.finditer(text)]


def steps_of(target: str) -> list[tuple[str, str]]:
  """The instructions that make the stage `target`, those of the stages below it first."""
  stages: dict[str, list[tuple[str, str]]] = {}
  name = ""
  for instruction, arguments in read_dockerfile():
    if instruction == "FROM":
      below, _, name = arguments.partition(" AS ")
      stages[name] = list(stages.get(below, []))
    elif name:
      stages[name].append((instruction, arguments))
  return stages[target]


def is_ignored(path: str) -> bool:
  """Whether `launch/Dockerfile.dockerignore` keeps a path out of the build. The last line that fits it counts."""
  verdict = False
  for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
    pattern = line.strip().removeprefix("!").strip("/")
    if pattern and not line.startswith("#") and _fits(pattern, path):
      verdict = not line.startswith("!")
  return verdict


def _fits(pattern: str, path: str) -> bool:
  """Whether docker's pattern fits the path or a folder above it."""
  expression = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
  return re.fullmatch(f"{expression}(?:/.*)?", path) is not None


class Image:
  """An image whose files are in a folder.

  Attributes:
    root: the folder.
  """

  def __init__(self, root: Path):
    self.root = root
    self._variables: dict[str, str] = {}
    self._folder = root

  def add_base(self, release: str) -> None:
    """Makes MaxText's base image: its release with the packages of `launch/constraints`."""
    prefix = self.root / "usr" / "local"
    python = str(prefix / "bin" / "python3")
    constraints = str(REPO / "launch" / "constraints" / f"maxtext-{release}.txt")
    for words in (
      ["venv", "--quiet", "--seed", "--python", sys.executable, str(prefix)],
      ["pip", "install", "--quiet", "--python", python, "-r", constraints],
    ):
      subprocess.run([_uv(), *words], check=True)
    (site_packages,) = prefix.glob("lib/python3*/site-packages")
    self._folder = self.root / "deps"
    for name in ("maxtext", "dependencies"):
      shutil.copytree(site_packages / name, self._folder / "src" / name)
    subprocess.run([_uv(), "pip", "uninstall", "--quiet", "--python", python, "maxtext"], check=True)
    tree = {"PYTHONPATH": "/deps/src", "MAXTEXT_REPO_ROOT": "/deps", "MAXTEXT_PKG_DIR": "/deps/src/maxtext"}
    home = {"HOME": "/root", "MAXTEXT_ASSETS_ROOT": "/deps/src/maxtext/assets"}
    (self.root / "root").mkdir()
    self._variables = {name: self._mapped(value) for name, value in (tree | home).items()}

  def build(self, target: str) -> None:
    """Does every step of a stage in order. A RUN line that fails ends the build."""
    for instruction, arguments in steps_of(target):
      if instruction == "ARG":
        name, _, value = arguments.partition("=")
        self._variables[name] = self._mapped(value)
      elif instruction == "COPY":
        self._copy(*arguments.split())
      else:
        assert instruction == "RUN", f"{instruction}: no such step here"
        done = self.run(arguments)
        assert done.returncode == 0, f"RUN {arguments}\n{done.stdout[-3000:]}"

  def run(self, line: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs a line as a RUN step, or as a pod with these variables; its output is stdout and stderr."""
    host = {name: value for name, value in os.environ.items() if name.upper().startswith(_OF_THE_HOST)}
    env = host | {"PATH": f"{self.root}/usr/local/bin:/usr/bin:/bin"} | self._variables | variables
    return subprocess.run(
      ["/bin/sh", "-c", self._mapped(line)],
      cwd=self._folder,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )

  def files(self, folder: str) -> set[str]:
    """The paths of all files below a folder of the image, relative to it."""
    top = self._inside(folder)
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

  def _copy(self, *words: str) -> None:
    """COPY: a file goes into the target folder, and of a folder all that is in it."""
    *sources, target = words
    assert target.endswith("/"), f"COPY to {target}: one file under another name is not needed here"
    for source in sources:
      for path, place in _context(source.rstrip("/")):
        (self._inside(target) / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self._inside(target) / place)

  def _inside(self, path: str) -> Path:
    return self.root / path.strip("/")

  def _mapped(self, text: str) -> str:
    return _ABSOLUTE.sub(f"{self.root}/", text)


def _context(source: str) -> Iterator[tuple[Path, str]]:
  """(file, its place in the target folder) of everything that COPY takes for a source and that is not ignored."""
  top = REPO / source
  assert top.exists() and not is_ignored(source), f"COPY {source}: not in the build"
  for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
    if path.is_file() and not is_ignored(str(path.relative_to(REPO))):
      yield path, str(path.relative_to(top if top.is_dir() else top.parent))


def _uv() -> str:
  """uv, which the development tools include."""
  return shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "uv"
