"""Packaging, read from settings.ini so that every fact stands in one place."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf8")
cfg = config["DEFAULT"]
EXTRAS = ("train", "virtualcam", "osc", "serve")

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    packages=find_packages(include=["live2diff_nb", "live2diff_nb.*"]),
    package_data={"live2diff_nb": ["assets/**/*"]},
    include_package_data=True,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={
        **{extra: cfg[f"{extra}_requirements"].split() for extra in EXTRAS},
        "dev": " ".join(cfg[f"{extra}_requirements"] for extra in ("dev", *EXTRAS)).split(),
    },
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
