"""Builds the compiled engine where that is possible; everything else stands in pyproject.toml.

The extension is optional: without a compiler, or with AIONET_PURE_PYTHON=1, the package is pure Python, runs
on the portable engine, and its wheel says so. `python -m aionet info` tells which engine runs.
"""

from __future__ import annotations

import os
import sysconfig
from glob import glob
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HEADERS = sorted(glob("aionet/native/*.h"))
ENGINE = Extension(
    "aionet.native._compiled",
    sources=sorted(glob("aionet/native/*.c")),
    depends=HEADERS,
    extra_compile_args=[
        "-std=c11",
        "-O2",
        "-fvisibility=hidden",
        "-fno-plt",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
    ],
    libraries=["m"],
    optional=True,
)


class BuildEngine(build_ext):
    """Knows whether anything was compiled, and leaves nothing old where compiling failed."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except BaseException:
            in_source = ext.name.replace(".", "/") + sysconfig.get_config_var("EXT_SUFFIX")
            for path in (self.get_ext_fullpath(ext.name), in_source):
                if os.path.exists(path):
                    os.remove(path)
            raise

    def was_built(self) -> bool:
        return any(
            os.path.exists(self.get_ext_fullpath(extension.name)) for extension in self.extensions or ()
        )


class Wheel(bdist_wheel):
    """Tagged for this platform only if something in it was compiled for it."""

    def run(self) -> None:
        if self.distribution.has_ext_modules():
            build: Any = self.get_finalized_command("build_ext")
            self.run_command("build_ext")
            if not build.was_built():
                self.distribution.ext_modules = []
                self.root_is_pure = True
        super().run()


setup(
    ext_modules=[] if os.environ.get("AIONET_PURE_PYTHON") == "1" else [ENGINE],
    cmdclass={"build_ext": BuildEngine, "bdist_wheel": Wheel},
)
