"""Open-Miipher-2: train, resume and run speech-restoration models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_miipher.restoration import Restorer

__all__ = ["Restorer", "__version__"]

__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    """Import the restorer, and torch with it, when it is asked for."""
    if name != "Restorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from open_miipher.restoration import Restorer

    return Restorer
