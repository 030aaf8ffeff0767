"""What the small commands share: their flags, `--help`, one line for what is refused, and the exit codes."""

import sys
from collections.abc import Callable, Iterable, Sequence

import jax
from absl import flags


def call(
    module: str,
    usage: str,
    values: flags.FlagValues,
    body: Callable[[list[str]], Iterable[str]],
    arguments: Sequence[str] | None,
) -> int:
    """Reads the flags, prints the lines of the body, and returns the exit code of `experiments.run`.

    Args:
      module: name of the command, for messages.
      usage: what `--help` prints before the flags.
      values: the command's flags; the body reads them.
      body: `(arguments that are no flags) -> lines`; raises ValueError or OSError to refuse something.
      arguments: without the program's name; None: those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in arguments):
        print(f"{usage.strip()}\n{values.get_help()}")
        return 0
    try:
        for line in body(values([module, *arguments])[1:]):
            print(line, flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (flags.Error, ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def no_arguments(arguments: list[str]) -> None:
    """Refuses arguments that are no flags."""
    if arguments:
        raise ValueError(f"unexpected argument {arguments[0]!r}: every option is written as --flag=value")
