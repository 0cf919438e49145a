"""Building: the engine is compiled where that is possible, and what is built without it says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from .support import checkout

SAYS = "import aionet; from aionet.native import why_portable; print(aionet.implementation(), why_portable)"
SITE = Path(sysconfig.get_path("purelib"))

slow = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command, cwd, check=True, **variables):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIONET", "PIP_"))
    }
    environment.pop("PYTHONPATH", None)
    environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture
def source(tmp_path):
    """A copy of what a distribution is made of, in which nothing was built yet."""
    if not (checkout / "setup.py").exists():
        pytest.skip("what is tested is not a checkout")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler, and CI must have one", pytrace=False)
        pytest.skip("there is no C compiler")
    copy = tmp_path / "source"
    shutil.copytree(
        checkout / "aionet", copy / "aionet", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.pyc")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        if (checkout / name).exists():
            shutil.copy(checkout / name, copy / name)
    return copy


def wheel_of(source, **variables):
    """Build a wheel; return its path and the names in it."""
    out = source.parent / "wheels"
    command = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, source)
    run(*command, cwd=source.parent, **variables)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel, archive.namelist()


def installed(wheel):
    """Install `wheel` by itself; return how a program runs with it."""
    target = wheel.parent.parent / "installed"
    command = (sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel)
    run(*command, cwd=target.parent)

    def run_with(program, check=True, **variables):
        where = "import aionet, sys; assert aionet.__file__.startswith(sys.argv[1]), aionet.__file__\n"
        command = (sys.executable, "-c", where + program, target)
        return run(*command, cwd=target.parent, check=check, PYTHONPATH=str(target), **variables)

    return run_with


class TestWheels:
    pytestmark = slow

    @pytest.mark.parametrize(
        "variables", [{"AIONET_PURE_PYTHON": "1"}, {"CC": "/bin/false"}], ids=["asked-for", "no-compiler"]
    )
    def test_pure(self, source, variables):
        wheel, names = wheel_of(source, **variables)
        assert wheel.name.endswith("-py3-none-any.whl")
        assert not [name for name in names if name.endswith(".so")]
        assert "aionet/native/__init__.py" in names
        run_with = installed(wheel)
        done = run_with(SAYS)
        assert done.stdout.startswith("portable no compiled engine: No module named")
        assert done.stderr == ""
        refused = run_with("", check=False, AIONET_ENGINE="native")
        assert refused.returncode == 1
        assert "AIONET_ENGINE=native, but this installation has no compiled engine" in refused.stderr
        assert run_with(SAYS, AIONET_ENGINE="portable").stdout == "portable AIONET_ENGINE=portable\n"

    def test_compiled(self, source):
        wheel, names = wheel_of(source)
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        assert f"-{tag}-{tag}-" in wheel.name
        assert not wheel.name.endswith("-any.whl")
        assert f"aionet/native/_compiled{sysconfig.get_config_var('EXT_SUFFIX')}" in names
        assert "aionet/native/_compiled.pyi" in names
        assert "aionet/py.typed" in names
        run_with = installed(wheel)
        assert run_with(SAYS, AIONET_ENGINE="native").stdout == "native \n"
        assert run_with(SAYS, AIONET_ENGINE="portable").stdout == "portable AIONET_ENGINE=portable\n"

    def test_pure_in_a_tree_that_has_a_compiled_engine_in_place(self, source):
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=source)
        assert list((source / "aionet/native").glob("*.so"))
        wheel, names = wheel_of(source, AIONET_PURE_PYTHON="1")
        assert wheel.name.endswith("-py3-none-any.whl")
        assert not [name for name in names if name.endswith(".so")]

    def test_what_was_compiled_before_is_not_taken_for_what_could_not_be_compiled_now(self, source):
        wheel, _ = wheel_of(source)
        wheel.unlink()
        module = source / "aionet/native/module.c"
        module.write_text(module.read_text() + "\n#error of the next version\n")
        wheel, names = wheel_of(source)
        assert not [name for name in names if name.endswith(".so")], "an engine of other sources"
        assert wheel.name.endswith("-py3-none-any.whl")

    def test_a_source_distribution_can_be_compiled(self, source, tmp_path):
        program = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
        name = run(sys.executable, "-c", program, tmp_path, cwd=source).stdout.splitlines()[-1]
        shutil.unpack_archive(tmp_path / name, tmp_path / "unpacked", filter="data")
        (unpacked,) = (tmp_path / "unpacked").iterdir()
        files = {path.name for path in (unpacked / "aionet/native").iterdir()}
        wanted = {path.name for path in (source / "aionet/native").glob("*.[ch]")} | {"_compiled.pyi"}
        assert wanted <= files
        wheel, _ = wheel_of(unpacked)
        assert not wheel.name.endswith("-any.whl")


class TestEditableInstallations:
    pytestmark = slow

    @pytest.fixture
    def python(self, tmp_path):
        """The interpreter of a new environment that has what building takes, and no aionet."""
        venv.create(tmp_path / "venv", with_pip=True)
        (target,) = (tmp_path / "venv/lib").glob("python3.*/site-packages")
        for old in target.glob("setuptools*"):
            shutil.rmtree(old)
        for pattern in ("setuptools", "setuptools-*"):
            for path in SITE.glob(pattern):
                shutil.copytree(path, target / path.name)
        return tmp_path / "venv/bin/python"

    def test_it_is_compiled_again_when_a_source_has_changed(self, source, python):
        def install():
            run(
                *(python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."),
                cwd=source,
            )
            return run(python, "-c", program, cwd=source.parent).stdout

        program = f"{SAYS}; from aionet.native import compiled; print(compiled.__file__, compiled.__doc__)"
        first = install()
        assert first.startswith("native ")
        assert str(source) in first
        module = source / "aionet/native/module.c"
        module.write_text(module.read_text().replace("The compiled engine's types", "The types, once more"))
        assert "The types, once more" in install()

    def test_it_is_compiled_again_when_a_header_has_changed(self, source, python):
        command = (python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", ".")
        run(*command, cwd=source)
        (built,) = (source / "aionet/native").glob("*.so")
        before = built.read_bytes()
        header = source / "aionet/native/native.h"
        text = header.read_text()
        assert "MOST_FREE = 256," in text
        header.write_text(text.replace("MOST_FREE = 256,", "MOST_FREE = 255,"))
        run(*command, cwd=source)
        assert built.read_bytes() != before


@pytest.mark.slow
def test_the_stub_says_what_the_module_has():
    pytest.importorskip("mypy")  # which only developers have; CI runs stubtest by itself
    done = run(sys.executable, "-m", "mypy.stubtest", "aionet.native._compiled", cwd=checkout, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 0, "\n".join(errors) or done.stdout + done.stderr
