"""A trained model for others: a folder that only restores, the hub, and ONNX."""

from open_miipher.exporting.card import Said
from open_miipher.exporting.folder import Contents, export_folder
from open_miipher.exporting.hub import fetch, upload

__all__ = ["Contents", "Said", "export_folder", "fetch", "upload"]
