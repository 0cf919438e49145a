"""Options from flags, environment variables and a TOML file: where each value is from, and what is wrong.

Theory of operation
-------------------
*The argparse parser is the one source of truth.* Each of its options is a `Setting` with three names:
``--max-connections``, ``AIONET_MAX_CONNECTIONS`` and ``max_connections`` in the file's table ``[serve]``. An
option that is added to the parser is known to all three at once, and its text goes through the same ``type``
and ``choices`` wherever it is from.

*Layers.* A flag goes before a variable, a variable before the file, the file before the default. argparse
tells what was given as a flag, because it leaves alone what a namespace has already: here a ``None`` for each
option. It is made to keep the texts, which are converted afterwards, so that all mistakes of all layers are
found together: also one in a value that another layer overrides.

*Defaults that depend on other options* (`safe_limits.py`) are worked out when all layers are known.

*Required* is a positional argument, though ``nargs="?"`` lets it come from elsewhere.

*Unknown names.* In the file each is an error. In the environment only one that is nearly a name of ours is:
there are variables of other parts of aionet, and of other programs that use it. No message shows the value of
a name that is unknown.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .configuration_file import InvalidFileError, read_file, toml_value
from .failing import complain
from .parsing import CommandParser, TextOnly
from .safe_limits import settle

__all__ = ["TABLE", "ConfigurableParser", "Configuration", "Setting", "Value", "add_configuration_arguments"]

TABLE = "serve"
"""The table of the file that holds the options."""

_PREFIX = "AIONET_"
_FLAGS_ONLY = ("check", "config", "reload", "replace")  # about one run of the command, not about the server
_OTHER_VARIABLES = (
    "AIONET_CONFIG",
    "AIONET_ENGINE",
    "AIONET_FIRST_PROCESS",
    "AIONET_PURE_PYTHON",
    "AIONET_RELOAD_PIPE",
    "AIONET_SUCCESSION",
)
_OTHER_PREFIXES = ("AIONET_CHAOS_",)
_DEFAULT = "default"  # the source of a value that the user did not give
_NEAR_IN_ENVIRONMENT = 0.75  # how much alike two names are that are taken for one: 0 to 1
_NEAR_IN_FILE = 0.5

_SWITCH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def add_configuration_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the options of `parser`, a `ConfigurableParser`, come from the environment and a file, too."""
    group = parser.add_argument_group(
        "configuration",
        f"Every option can also be a variable ({_PREFIX}MAX_CONNECTIONS=100) or a key of the file's\n"
        f"table [{TABLE}] (max_connections = 100). Flags go first, then variables, then the file.",
    )
    group.add_argument("--config", metavar="FILE", help=f"a TOML file (default: what {_PREFIX}CONFIG names)")
    group.add_argument(
        "--check",
        action="store_true",
        help="serve nothing: print all options and where they are from, as TOML",
    )
    group.add_argument(
        "--reload", action="store_true", help="for development: restart when a source file changes"
    )


class Setting:
    """One option of a parser, under all of its names."""

    def __init__(self, action: argparse.Action) -> None:
        self.action = action
        self.flag = next((flag for flag in action.option_strings if flag.startswith("--")), None)
        self.name = (self.flag or action.dest).lstrip("-").replace("-", "_")
        """Its key in the file."""
        self.variable = f"{_PREFIX}{self.name.upper()}"
        self.is_switch = action.nargs == 0
        self.may_lack_a_value = action.nargs == "?" and self.flag is not None
        self.takes_several = isinstance(action, argparse._AppendAction) or (
            action.nargs in ("*", "+") or (isinstance(action.nargs, int) and action.nargs > 0)
        )

    def switched(self, on: bool) -> object:
        """Return the value of a switch that is on or off."""
        if isinstance(self.action, argparse.BooleanOptionalAction):
            return on
        return self.action.const if on else self.action.default


@dataclass(frozen=True)
class Value:
    """What an option is, and why."""

    value: Any
    """As the command takes it."""

    shown: Any
    """As TOML and JSON can tell it; ``None`` if it is not set."""

    source: str
    """A flag, a variable, a file, ``command line`` for what has no flag, or ``default``."""


_Layer: TypeAlias = dict[str, Value]


@dataclass
class Configuration:
    """What came out of all layers."""

    file: str | None = None
    values: dict[str, Value] = field(default_factory=dict)
    """Name of the option -> its value, in the order of ``--help``."""

    problems: list[str] = field(default_factory=list)
    """One line each; the values that they are about are missing."""


class ConfigurableParser(CommandParser):
    """A parser of arguments which, once it has ``--config``, looks in the environment and a file, too.

    The namespace then has a `Configuration` as ``configuration``. Unless ``--check`` was given, problems are
    told and end the program, as bad usage does.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if not self._configurable:
            return super().parse_known_args(args, namespace)
        settings = [Setting(action) for action in self._actions if action.default is not argparse.SUPPRESS]
        nothing = argparse.Namespace(**{setting.action.dest: None for setting in settings})
        given, rest = super().parse_known_args(args, nothing)
        settings = [setting for setting in settings if setting.name not in _FLAGS_ONLY]
        given.configuration = _Gathering(self, settings).gather(given, os.environ)
        if given.configuration.problems and not given.check:
            for problem in given.configuration.problems:
                complain(problem)
            self.exit(2)
        return given, rest

    def convert(self, action: argparse.Action, text: str) -> Any:
        """Return what `text` means to `action`; raises `argparse.ArgumentError`."""
        value = super()._get_value(action, text)
        super()._check_value(action, value)
        return value

    @property
    def _configurable(self) -> bool:
        return "--config" in self._option_string_actions

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Keep the text, which is converted together with those of the other layers."""
        return arg_string if self._configurable else super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if not self._configurable:
            super()._check_value(action, value)


class _Gathering:
    """Puts the layers on top of each other, and notes what is wrong in any of them."""

    def __init__(self, parser: ConfigurableParser, settings: list[Setting]) -> None:
        self._parser = parser
        self._settings = {setting.name: setting for setting in settings}
        self._problems: list[str] = []
        self._wrong: set[str] = set()  # the settings that a problem is about

    def gather(self, given: argparse.Namespace, environ: Mapping[str, str]) -> Configuration:
        """Complete `given`, which holds the texts of the flags; return the same with the sources."""
        file = given.config or environ.get(f"{_PREFIX}CONFIG") or None
        layers = [self._flags(given), self._environment(environ), self._file(file) if file else {}]
        values = {}
        for name, setting in self._settings.items():
            value = next((layer[name] for layer in layers if name in layer), None) or _default_of(setting)
            values[name] = value
            setattr(given, setting.action.dest, value.value)
            if value.shown is None and not setting.flag and name not in self._wrong:
                title = setting.action.metavar or name
                self._problems.append(
                    f"{title} is missing: give it as an argument, as {setting.variable},"
                    f" or as {name} in the table [{TABLE}] of a file"
                )
        for name, found in settle(given).items():
            values[name] = Value(found, _shown(found), _DEFAULT)
        given.check, given.reload = bool(given.check), bool(given.reload)
        return Configuration(file, values, self._problems)

    # Layers ---------------------------------------------------------------------------------------------

    def _flags(self, given: argparse.Namespace) -> _Layer:
        layer: _Layer = {}
        for setting in self._settings.values():
            found = getattr(given, setting.action.dest)
            if found is None:
                continue
            source = setting.flag or "command line"
            if not isinstance(found, str | list):  # of a switch, or of a flag without its value
                layer[setting.name] = Value(found, _shown(found), source)
                continue
            place = str(argparse.ArgumentError(setting.action, "")).removesuffix(": ")
            texts = [found] if isinstance(found, str) else found
            layer |= self._convert(setting, source, [(place, text) for text in texts], brief=False)
        return layer

    def _environment(self, environ: Mapping[str, str]) -> _Layer:
        self._look_for_misspelt_variables(environ)
        layer: _Layer = {}
        for setting in self._settings.values():
            if text := environ.get(setting.variable, "").strip():
                layer |= self._variable(setting, text)
        return layer

    def _variable(self, setting: Setting, text: str) -> _Layer:
        place = f"{setting.variable}={text if text.isprintable() else repr(text)}"
        on = _SWITCH.get(text.lower())
        if setting.may_lack_a_value and text.lower() in ("true", "false"):  # 1 may be a value
            return self._switch(setting, setting.variable, on, place)
        if setting.is_switch:
            return self._switch(
                setting, setting.variable, on, f"{place}: expected 1, true, yes or 0, false, no"
            )
        texts = re.split(r"[\s,]+", text) if setting.takes_several else [text]
        return self._convert(setting, setting.variable, [(place, text) for text in texts if text])

    def _file(self, file: str) -> _Layer:
        try:
            tables = read_file(file)
        except InvalidFileError as error:
            self._problems.append(str(error))
            return {}
        layer: _Layer = {}
        for key, table in tables.items():
            if key != TABLE:
                self._problems.append(f"{file}: {self._unknown_table(key, table)}")
            elif isinstance(table, dict):
                layer = self._table(file, table)
            else:
                self._problems.append(f"{file}: {TABLE} = {toml_value(table)}: expected a table, [{TABLE}]")
        return layer

    def _table(self, file: str, table: Mapping[str, object]) -> _Layer:
        layer: _Layer = {}
        for key, found in table.items():
            name = key.replace("-", "_")
            if name not in self._settings:
                self._problems.append(f"{file}: {TABLE}.{key}: {self._unknown_key(name)}")
            elif name != key and name in table:
                self._problems.append(f"{file}: {TABLE}.{key}: {name} is there, too, and means the same")
            else:
                layer |= self._key(self._settings[name], file, f"{file}: {TABLE}.{key}", found)
        return layer

    def _key(self, setting: Setting, file: str, place: str, found: object) -> _Layer:
        on = found if isinstance(found, bool) else None
        if setting.is_switch or (setting.may_lack_a_value and on is not None):
            return self._switch(setting, file, on, f"{place} = {toml_value(found)}: expected true or false")
        elements = found if isinstance(found, list) and setting.takes_several else [found]
        for element in elements:
            if isinstance(element, list | dict):
                what = "an array" if isinstance(element, list) else "a table"
                self._note(setting, f"{place}: expected a text or a number, not {what}")
                return {}
            if isinstance(setting.action.type, TextOnly) and not isinstance(element, str):
                example = toml_value(setting.action.type.example)
                self._note(setting, f"{place} = {toml_value(element)}: expected a text, as {example}")
                return {}
        texts = [(f"{place} = {toml_value(element)}", _text_of(element)) for element in elements]
        return self._convert(setting, file, texts)

    def _switch(self, setting: Setting, source: str, on: bool | None, problem: str) -> _Layer:
        if on is None:
            self._note(setting, problem)
            return {}
        value = setting.switched(on)
        if isinstance(value, str):  # as argparse does with those of flags
            return self._convert(setting, source, [(source, value)])
        return {setting.name: Value(value, _shown(value), source)}

    def _convert(
        self, setting: Setting, source: str, texts: list[tuple[str, str]], *, brief: bool = True
    ) -> _Layer:
        """Return what `texts` mean, or nothing if one is wrong. Each comes with the place to name then.

        Where the place shows the text already, the message is `brief` and does not repeat it.
        """
        values, shown = [], []
        for place, text in texts:
            try:
                value = self._parser.convert(setting.action, text)
            except argparse.ArgumentError as error:
                message = error.message.removeprefix(f"{text!r}: ") if brief else error.message
                self._note(setting, f"{place}: {message}")
            else:
                values.append(value)
                shown.append(_shown(value, text))
        if len(values) < len(texts) or not values:  # an empty list is as good as none
            return {}
        if setting.takes_several:
            return {setting.name: Value(values, shown, source)}
        return {setting.name: Value(values[0], shown[0], source)}

    def _note(self, setting: Setting, problem: str) -> None:
        self._problems.append(problem)
        self._wrong.add(setting.name)

    # Unknown names --------------------------------------------------------------------------------------

    def _look_for_misspelt_variables(self, environ: Mapping[str, str]) -> None:
        variables = [*(setting.variable for setting in self._settings.values()), *_OTHER_VARIABLES]
        names = [variable.removeprefix(_PREFIX) for variable in variables]
        for variable in sorted(environ):
            if (
                variable in variables
                or not variable.startswith(_PREFIX)
                or variable.startswith(_OTHER_PREFIXES)
            ):
                continue
            name = variable.removeprefix(_PREFIX)
            if name.lower() in _FLAGS_ONLY:
                self._problems.append(f"{variable}: --{name.lower()} can be given as a flag only")
            elif near := difflib.get_close_matches(name, names, 1, _NEAR_IN_ENVIRONMENT):
                self._problems.append(f"{variable}: unknown variable; did you mean {_PREFIX}{near[0]}?")

    def _unknown_key(self, name: str) -> str:
        if name in _FLAGS_ONLY:
            return f"--{name} can be given as a flag only"
        return f"unknown key; {self._nearest(name)}"

    def _unknown_table(self, key: str, found: object) -> str:
        if isinstance(found, dict):
            return f"unknown table [{key}]; did you mean [{TABLE}]?"
        name = key.replace("-", "_")
        if name in self._settings:
            return f"{key} stands outside of the table [{TABLE}]"
        return f"unknown key {key}; {self._nearest(name)}"

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._settings, 1, _NEAR_IN_FILE)
        return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(self._settings))}"


def _default_of(setting: Setting) -> Value:
    default = setting.action.default
    shown = [_shown(item) for item in default] if isinstance(default, list) else _shown(default)
    return Value(default, shown, _DEFAULT)


def _text_of(element: object) -> str:
    """Return what a flag would say."""
    return element if isinstance(element, str) else toml_value(element)


def _shown(value: object, text: str | None = None) -> object:
    """Return `value` as TOML has it: what TOML has no type for is shown as the `text` that it came from."""
    if isinstance(value, bool | int | float) or (value is None and text is None):
        return value
    return str(value) if text is None else text
