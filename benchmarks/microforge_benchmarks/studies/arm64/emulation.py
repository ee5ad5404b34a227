"""A foreign Python to run: Debian's packages for arm64 and Arm wheels, unpacked into a folder, under qemu-user.

Nothing is installed on the system: packages are fetched with private lists and unpacked, as are the wheels. What
is there already is not fetched again; the folder can be deleted, and is made again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

import microforge
import microforge_benchmarks
import microforge_runtimes
from microforge.errors import MissingExtraError, OutputError
from microforge.io.atomic import atomic_folder, check_output

QEMU = "qemu-aarch64-static"
#: A core of phones since 2018: Armv8.2 with the dot products and half precision that INT8 kernels ask for.
PROCESSOR = "cortex-a76"
#: Runs under QEMU 7.2; 1.32.0 ends there with a segmentation fault.
ONNXRUNTIME = "1.24.4"
DEBIAN_PACKAGES = ("python3", "libstdc++6")
MARKER = "made-by-microforge"
_TOOLS = {QEMU: "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg", "env": "coreutils"}
#: Older C libraries than the root's are fine, so all the tags that wheels are published under.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


@dataclass(frozen=True)
class Machine:
    """What runs a Python program: the words before ``-m MODULE ARGUMENTS``."""

    name: str
    words: tuple[str, ...]

    def module(self, module: str, *arguments: str) -> tuple[str, ...]:
        """The command that runs ``python -m module arguments`` there."""
        return (*self.words, "-m", module, *arguments)


def check_tools() -> None:
    """Refuse where a program is missing that the preparation or the run needs.

    Raises:
        MissingExtraError: names the package that has it.
    """
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise MissingExtraError(
                f"{tool} is not on PATH; Debian and Ubuntu have it: apt install {package}"
            )


def emulated(root: Path, site: Path, processor: str = PROCESSOR) -> Machine:
    """Python of ``root`` under qemu-user, with the wheels in ``site``; sees nothing of this process's environment.

    Raises:
        OutputError: when ``root`` holds no Python.
    """
    emulator = (shutil.which(QEMU) or QEMU, "-cpu", processor, "-L", str(root), str(foreign_python(root)))
    return Machine("aarch64", ("env", "-i", *_assignments(python_variables(site)), *emulator))


def native(site: Path | None = None) -> Machine:
    """This Python; with ``site``, its wheels before those of the environment."""
    if site is None:
        return Machine("x86-64", (sys.executable,))
    return Machine("x86-64", ("env", *_assignments(python_variables(site)), sys.executable))


def python_variables(site: Path) -> dict[str, str]:
    """Variables of a process that imports wheels from ``site`` and our packages from where they are."""
    packages = (microforge, microforge_runtimes, microforge_benchmarks)
    homes = dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in packages)
    # both Pythons would write the same __pycache__ files
    return {
        "PYTHONPATH": ":".join((str(site), *homes)), "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def _assignments(variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in variables.items())


def foreign_python(root: Path) -> Path:
    """The interpreter in an unpacked root, by its versioned name, such as python3.11.

    Raises:
        OutputError: when there is none.
    """
    found = sorted(root.glob("usr/bin/python3.[0-9]*"))
    found = [path for path in found if path.name.removeprefix("python3.").isdecimal()]
    if not found:
        raise OutputError(f"{root} has no Python in usr/bin; delete the folder and run again")
    return found[0].absolute()


def make_root(work: Path) -> Path:
    """Debian's Python for arm64, in ``work/root``; taken as it is when it is there.

    Raises:
        OutputError: when the packages cannot be fetched or unpacked.
    """
    root, lists = work / "root", work / "apt"
    if (root / MARKER).is_file():
        return root
    check_output(root, force=True)
    for name in ("state/lists/partial", "cache/archives/partial"):
        (lists / name).mkdir(parents=True, exist_ok=True)
    (lists / "status").touch()
    run_tool(apt_words(lists.absolute(), "update"))
    run_tool(apt_words(lists.absolute(), "install", *DEBIAN_PACKAGES))
    with atomic_folder(root, marker=MARKER) as folder:
        for package in sorted((lists / "cache" / "archives").glob("*.deb")):
            run_tool(("dpkg-deb", "-x", str(package), str(folder)))
        (folder / MARKER).touch()
    shutil.rmtree(lists)
    return root


def apt_words(lists: Path, action: str, *packages: str) -> tuple[str, ...]:
    """apt-get with lists, cache and package states of its own, for arm64; downloads and installs nothing.

    An empty state makes it fetch every dependency, as if nothing were installed.
    """
    options = (
        "APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Install-Recommends=false",
        "APT::Sandbox::User=root", f"Dir::State={lists}/state", f"Dir::State::status={lists}/status",
        f"Dir::Cache={lists}/cache",
    )  # fmt: skip
    words = [word for option in options for word in ("-o", option)]
    download = ("--yes", "--download-only") if packages else ()
    return ("apt-get", "-q", *words, *download, action, *packages)


def make_site(work: Path, version: str, root: Path) -> Path:
    """Wheels for the root's Python: ONNX Runtime ``version`` and all that the runtime stands on.

    Raises:
        OutputError: when a wheel cannot be fetched, with pip's own last error.
    """
    python = foreign_python(root).name.removeprefix("python")
    return _wheels(
        work / f"aarch64-onnxruntime-{version}", wheel_words(python), runtime_requirements(version)
    )


def make_native_engine(work: Path, version: str) -> Path:
    """ONNX Runtime ``version`` for this Python, to tell what the version changes from what the processor changes.

    Raises:
        OutputError: when the wheel cannot be fetched.
    """
    return _wheels(work / f"x86-64-onnxruntime-{version}", ("--no-deps",), (f"onnxruntime=={version}",))


def _wheels(site: Path, options: Sequence[str], requirements: Sequence[str]) -> Path:
    if (site / MARKER).is_file():
        return site
    with atomic_folder(site, marker=MARKER) as folder:
        pip = (
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary=:all:",
            "--target",
            str(folder),
        )
        run_tool((*pip, *options, *requirements))
        (folder / MARKER).touch()
    return site


def wheel_words(python: str) -> tuple[str, ...]:
    """Options that make pip choose wheels for Arm and ``python``, such as 3.11."""
    platforms = (word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64"))
    return (*platforms, "--implementation", "cp", "--python-version", python)


def runtime_requirements(version: str) -> tuple[str, ...]:
    """What the package without extras requires, and ONNX Runtime ``version``."""
    core = (line for line in requires("microforge") or () if "extra ==" not in line)
    return (*core, f"onnxruntime=={version}")


def run_tool(words: Sequence[str]) -> None:
    """Run a program that fetches or unpacks.

    Raises:
        OutputError: its exit code and the last line it said.
    """
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("e:", "error"))] or lines or [""]
        raise OutputError(
            f"{Path(words[0]).name} failed with exit code {done.returncode}: {errors[-1][:300]}"
        )
