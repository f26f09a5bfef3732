"""A trained model for others: a folder that only restores, the hub, and ONNX."""

from open_miipher.exporting.folder import Contents, export_folder
from open_miipher.exporting.hub import check_upload, fetch, upload

__all__ = ["Contents", "check_upload", "export_folder", "fetch", "upload"]
