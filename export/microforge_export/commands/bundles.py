"""``mf-export verify``, ``inspect`` and ``fit``: commands that read a bundle."""

from __future__ import annotations

from microforge.io.console import say, say_error
from microforge_export.commands import options
from microforge_export.commands.output import print_result


def verify(bundle: options.Bundle, key: options.TrustedKey = None, json: options.Json = False) -> int:
    """Check the hash of every file, its signature if a key is given, and repeat every parity check.

    The exit code is 1 if a hash is wrong or a check misses its limit. PyTorch is not needed.
    """
    from microforge.bundle.files import load_bundle
    from microforge.bundle.signature import read_key
    from microforge.io.console import DONE, FELL_SHORT
    from microforge_export.checks.verify import verify as check
    from microforge_export.checks.verify_view import verify_table, verify_values

    result = check(load_bundle(bundle, read_key(key)), lambda what: say(f"checking {what}"))
    print_result(json, verify_values(str(bundle), result), verify_table(result))
    for problem in result.problems:
        say_error(problem)
    return FELL_SHORT if result.problems else DONE


def inspect(bundle: options.Bundle, json: options.Json = False) -> None:
    """Show components, files, shapes, precision, bytes, parity and operators."""
    from microforge.bundle.files import load_bundle
    from microforge_export.checks.inspect import bundle_tables, bundle_values

    opened = load_bundle(bundle)
    print_result(json, bundle_values(opened), bundle_tables(opened))


def fit(
    bundle: options.Bundle,
    device: options.Device = "phone-3gb",
    mode: options.LoadingMode = "auto",
    target: options.FitTarget = "onnx",
    size: options.FitSize = None,
    json: options.Json = False,
) -> int:
    """Predict the peak memory of every component on a device.

    The exit code is 1 if the bundle does not fit.
    """
    from microforge.bundle.devices import find_device
    from microforge.bundle.files import load_bundle
    from microforge.io.console import DONE, FELL_SHORT
    from microforge.spec import parse_size
    from microforge_export.memory.fit import fit as check
    from microforge_export.memory.fit_view import fit_table, fit_values

    profile, opened = find_device(device), load_bundle(bundle)
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    answer = check(opened, profile, target, pixels, mode)
    print_result(json, fit_values(opened, answer), fit_table(answer))
    if not answer.fits:
        say_error(f"the bundle does not fit: {answer.reason}")
    return DONE if answer.fits else FELL_SHORT
