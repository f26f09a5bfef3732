"""Where the files lie that come with the project: configuration and small models."""

from pathlib import Path


def shipped(name: str) -> Path:
    """Return a path of what comes with the project, such as `config` or `pretrained/default`.

    In a checkout and in the image they lie beside `src`; a wheel holds them inside the package.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "shipped"
    return (inside if inside.is_dir() else package.parents[1]) / name
