"""Find the packages; pyproject.toml has everything else.

In a checkout kernels/, patches/ and launch/ lie beside sglang_hisa/; installed, they lie below it. In
pyproject.toml setuptools can either find packages or rename folders, and a list by hand forgets the next
package.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "sglang_hisa": "sglang_hisa",
    "sglang_hisa.kernels": "kernels",
    "sglang_hisa.patches": "patches",
    "sglang_hisa.launch": "launch",
}

NOT_INSTALLED = ("research", "research.*")
"""Studies of a checkout: training, the offline comparison of summaries, and the trained model."""


def packages() -> list[str]:
    """Installed names of the four packages and of all below them, which are folders with ``__init__.py``."""
    below = [
        f"{name}.{found}"
        for name, folder in FOLDERS.items()
        for found in find_packages(folder, exclude=NOT_INSTALLED)
    ]
    return [*FOLDERS, *below]


setup(packages=packages(), package_dir=FOLDERS)
