"""All errors that MicroForge raises on purpose.

User mistakes subclass ValueError: a command line turns them into one line on stderr and exit code 2.
Failed checks subclass RuntimeError: exit code 1.
"""


class MicroForgeError(Exception):
    """Base of all errors below."""


class SpecError(MicroForgeError, ValueError):
    """A configuration, a size or an option that is not allowed; the message lists what is."""


class CheckpointError(MicroForgeError, ValueError):
    """A checkpoint that is missing, incomplete, truncated or of another model."""


class DataError(MicroForgeError, ValueError):
    """A dataset, a caption or an image that cannot be used."""


class PromptError(MicroForgeError, ValueError):
    """A prompt that cannot be encoded (empty)."""


class BundleError(MicroForgeError, ValueError):
    """A bundle that is missing, damaged or unsafe, or lacks the task, size or target that was asked for."""


class SignatureError(MicroForgeError, ValueError):
    """A bundle that is not signed by the trusted key, or a key that cannot be used."""


class DownloadError(MicroForgeError, ValueError):
    """A bundle that does not arrive, or is not what its manifest says when it does."""


class HubError(MicroForgeError, ValueError):
    """A model of the Hugging Face hub that does not exist, or cannot be downloaded or uploaded."""


class OutputError(MicroForgeError, ValueError):
    """An output that cannot be written."""


class OutputExistsError(OutputError):
    """The output exists already, and ``force`` was not given."""


class MissingExtraError(MicroForgeError, ValueError):
    """An optional package is not installed; the message names the extra that installs it."""


class ParityError(MicroForgeError, RuntimeError):
    """An exported artefact differs from the reference by more than its recipe allows."""


class GenerationError(MicroForgeError, RuntimeError):
    """A network gave NaN or infinity where an image or a latent was expected; nothing is written."""


class GraphLintError(MicroForgeError, RuntimeError):
    """An exported graph holds an operator or a dimension that phones cannot run well."""


class DivergenceError(MicroForgeError, RuntimeError):
    """Training diverged (NaN, or a loss out of range); the message names the last good checkpoint."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for an optional ``package`` that the extra ``extra`` installs."""
    return MissingExtraError(f"{package} is not installed: pip install 'microforge[{extra}]'")
