"""Single equations of a traced program (`jax.make_jaxpr`): what they read, and their evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend import core


def evaluate(equation: core.JaxprEqn, values: Mapping[core.Var, Any]) -> Sequence[Any]:
    """The results of one equation, whose inputs are among the values."""
    read = tuple(dict.fromkeys(inputs(equation)))
    names = ("value",) * len(read), ("value",) * len(equation.outvars)
    debug = core.DebugInfo("equation", equation.primitive.name, *names)
    alone = core.Jaxpr((), read, equation.outvars, (equation,), equation.effects, debug)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*(values[var] for var in read))


def value(var: core.Var | core.Literal, values: Mapping[core.Var, Any]) -> Any:
    """What a variable or a literal stands for."""
    return var.val if isinstance(var, core.Literal) else values[var]


def inputs(equation: core.JaxprEqn) -> list[core.Var]:
    """The values that it reads, literals left out."""
    return [var for var in equation.invars if not isinstance(var, core.Literal)]
