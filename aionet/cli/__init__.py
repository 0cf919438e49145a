"""The command line: ``aionet serve | echo | connect | relay | bench | info``.

`main` finds the command, and each command has a room of its own, imported only when it is asked for, with
``add_arguments(parser)`` and ``run(args) -> int``. What commands share: `arguments` (types and options),
`failing` (errors that become one line), `dialing`, `serving` (bind, announce, serve, drain) and
`standard_streams` (stdin and stdout without blocking the loop).

A command that calls `configuration.add_configuration_arguments` takes its options from variables and a file,
too. It has a third function, ``check(args)``, for `checking`; `reloading` needs nothing of it.
"""
