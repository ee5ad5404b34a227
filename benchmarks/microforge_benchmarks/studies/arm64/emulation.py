"""Python for Arm under qemu-user: Debian's arm64 packages and Arm wheels, unpacked into a folder.

Nothing is installed on the system. Packages are fetched with private lists and unpacked, as are wheels. Files that are
there already are not fetched again, and the folder can be deleted at any time.
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
#: Emulated core, found in phones since 2018: Armv8.2 with the dot products and half precision that INT8 kernels use.
PROCESSOR = "cortex-a76"
#: A version that runs under QEMU 7.2, where 1.32.0 ends with a segmentation fault.
ONNXRUNTIME = "1.24.4"
DEBIAN_PACKAGES = ("python3", "libstdc++6")
MARKER = "made-by-microforge"
_TOOLS = {QEMU: "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg", "env": "coreutils"}
#: Platform tags of wheels: older C libraries than that of the root are compatible.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


@dataclass(frozen=True)
class PythonCommand:
    """A Python interpreter: its name for messages, and the command before ``-m MODULE ARGUMENTS``."""

    name: str
    command: tuple[str, ...]

    def module(self, module: str, *arguments: str) -> tuple[str, ...]:
        """Command that runs ``python -m module arguments`` with this interpreter."""
        return (*self.command, "-m", module, *arguments)


def check_tools() -> None:
    """Check that all programs are installed that the preparation and the run need.

    Raises:
        MissingExtraError: when one is missing; the message names its package.
    """
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise MissingExtraError(f"{tool} is not on PATH; install it with apt install {package}")


def emulated(root: Path, site: Path, processor: str = PROCESSOR) -> PythonCommand:
    """Python of ``root`` under qemu-user, with the wheels in ``site`` and an empty environment.

    Raises:
        OutputError: when ``root`` has no Python.
    """
    emulator = (shutil.which(QEMU) or QEMU, "-cpu", processor, "-L", str(root), str(root_python(root)))
    return PythonCommand("aarch64", ("env", "-i", *_assignments(python_variables(site)), *emulator))


def native(site: Path | None = None) -> PythonCommand:
    """This Python; the wheels in ``site`` take precedence over the environment's."""
    if site is None:
        return PythonCommand("x86-64", (sys.executable,))
    return PythonCommand("x86-64", ("env", *_assignments(python_variables(site)), sys.executable))


def python_variables(site: Path) -> dict[str, str]:
    """Environment variables of a process that imports wheels from ``site`` and this project's packages."""
    packages = (microforge, microforge_runtimes, microforge_benchmarks)
    folders = dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in packages)
    # No bytecode: both interpreters would write the same __pycache__ files.
    return {
        "PYTHONPATH": ":".join((str(site), *folders)), "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def _assignments(variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in variables.items())


def root_python(root: Path) -> Path:
    """Path of the interpreter in an unpacked root, with its versioned name, such as python3.11.

    Raises:
        OutputError: when there is none.
    """
    paths = sorted(root.glob("usr/bin/python3.[0-9]*"))
    paths = [path for path in paths if path.name.removeprefix("python3.").isdecimal()]
    if not paths:
        raise OutputError(f"{root} has no Python in usr/bin; delete the folder and run again")
    return paths[0].absolute()


def make_root(work: Path) -> Path:
    """Unpack Debian's Python for arm64 in ``work/root``, unless it is there already.

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
    run_tool(apt_command(lists.absolute(), "update"))
    run_tool(apt_command(lists.absolute(), "install", *DEBIAN_PACKAGES))
    with atomic_folder(root, marker=MARKER) as folder:
        for package in sorted((lists / "cache" / "archives").glob("*.deb")):
            run_tool(("dpkg-deb", "-x", str(package), str(folder)))
        (folder / MARKER).touch()
    shutil.rmtree(lists)
    return root


def apt_command(lists: Path, action: str, *packages: str) -> tuple[str, ...]:
    """Command of apt-get for arm64 with its own lists, cache and package state; it downloads, and installs nothing.

    The state is empty, so apt-get fetches every dependency, as if no package were installed.
    """
    options = (
        "APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Install-Recommends=false",
        "APT::Sandbox::User=root", f"Dir::State={lists}/state", f"Dir::State::status={lists}/status",
        f"Dir::Cache={lists}/cache",
    )  # fmt: skip
    settings = [word for option in options for word in ("-o", option)]
    download = ("--yes", "--download-only") if packages else ()
    return ("apt-get", "-q", *settings, *download, action, *packages)


def make_site(work: Path, version: str, root: Path) -> Path:
    """Fetch wheels for the Python of ``root``: ONNX Runtime ``version``, and the requirements of the runtime.

    Raises:
        OutputError: when a wheel cannot be fetched; the message ends with pip's last error.
    """
    python = root_python(root).name.removeprefix("python")
    return _wheels(
        work / f"aarch64-onnxruntime-{version}", wheel_options(python), runtime_requirements(version)
    )


def make_native_engine(work: Path, version: str) -> Path:
    """Fetch ONNX Runtime ``version`` for this Python, to separate the effect of the version from that of the processor.

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


def wheel_options(python: str) -> tuple[str, ...]:
    """Options of pip that select wheels for Arm and for ``python``, such as 3.11."""
    platforms = (word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64"))
    return (*platforms, "--implementation", "cp", "--python-version", python)


def runtime_requirements(version: str) -> tuple[str, ...]:
    """Requirements of the package without extras, and ONNX Runtime ``version``."""
    core = (line for line in requires("microforge") or () if "extra ==" not in line)
    return (*core, f"onnxruntime=={version}")


def run_tool(command: Sequence[str]) -> None:
    """Run a program that fetches or unpacks.

    Raises:
        OutputError: when it fails; the message has its exit code and its last line.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("e:", "error"))] or lines or [""]
        raise OutputError(
            f"{Path(command[0]).name} failed with exit code {done.returncode}: {errors[-1][:300]}"
        )
