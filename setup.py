"""What a wheel holds: the package, and inside it, as `shipped`, what lies beside `src` here.

The rest is in pyproject.toml, which cannot join packages that are found and folders that are named.
"""

from setuptools import find_packages, setup

SHIPPED = ("config", "pretrained/default", "pretrained/codec")

folders = {f"open_miipher.shipped.{name.replace('/', '.')}": name for name in SHIPPED}
setup(
    packages=[*find_packages("src", include=["open_miipher*"]), *folders],
    package_dir={"": "src", **folders},
    package_data={
        "open_miipher.evaluation": ["pages/*"],
        **{package: ["*.*", "**/*.*"] for package in folders},
    },
)
