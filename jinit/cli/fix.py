"""`jinit fix`."""

import os
import sys
from typing import Annotated, Any

import typer

import jinit
from jinit.cli.options import Overwrite, Picture, check_plot, made_by
from jinit.files import whole


def fix(
    factory: Annotated[
        str, typer.Argument(help="module:function that returns a dict of model, data and loss.")
    ],
    steps: Annotated[int, typer.Option(help="Of every training.")] = 300,
    seeds: Annotated[int, typer.Option(help="Of every candidate.")] = 3,
    minutes: Annotated[float, typer.Option(help="After which no candidate is begun.")] = 3.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Picture = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a model of yours train: candidates are trained side by side, and one wins, or none.

    The dict holds model, which holds its arrays as those of NNX and Equinox do, or apply and
    variables; data, a tuple or dict of x_train, y_train, x_test, y_test; loss(outputs, targets);
    and perhaps optimizer (an optax transformation, else Adam), or a function of the rate with
    learning_rate; batch_size, rules, in_axes as in jinit.fix.
    """
    check_plot(plot, overwrite)
    import jax

    sys.path.insert(0, os.getcwd())  # where the module is looked for first
    made = _model(factory)
    parts = {name: made.pop(name) for name in _PARTS if name in made}
    names = sorted({"optimizer", "learning_rate", "rules"} & made.keys())
    if "optimizer" not in made:
        import optax

        made["optimizer"] = optax.adam
        made.setdefault("learning_rate", 1e-3)
    found = jinit.fix(
        jax.random.key(0), *parts.values(), steps=steps, seeds=seeds, minutes=minutes, **made
    )
    if found.code:
        found = found._replace(code=_opening(factory, parts, made, names) + found.code)
    if json:
        import json as format_

        print(format_.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        print(found)
    if plot is not None:
        with whole(plot) as file:
            jinit.plots.fixed(found)[0].get_figure().savefig(file)


def _opening(factory: str, parts: dict[str, Any], made: dict[str, Any], names: list[str]) -> str:
    """The lines that make the names which the others use."""
    from jinit import checks

    module, function = factory.split(":")
    model = "apply, variables" if "variables" in parts else "model"
    values = [f'made["{name}"]' for name in parts]
    call = f"{function}()" if callable(checks.imported("model", factory)) else function
    lines = [
        "import jax, jinit, optax",
        f"from {module} import {function}",
        "",
        f"made = {call}",
        f"{model}, data = {', '.join(values)}",
        *(f'{name} = made["{name}"]' for name in names),
        "key = jax.random.key(0)",
    ]
    if "optimizer" not in names:
        lines[-1:-1] = ["optimizer = optax.adam"]
        if "learning_rate" not in names:
            lines[-1:-1] = [f"learning_rate = {made['learning_rate']}"]
    return "\n".join([*lines, "", ""])


_PARTS = ("apply", "model", "variables", "data")
_TAKEN = (*_PARTS, "loss", "optimizer", "learning_rate", "batch_size", "rules", "in_axes")


def _model(factory: str) -> dict[str, Any]:
    from jinit import checks

    form = "a dict of model (or apply and variables), data and loss"
    made = made_by(factory, form)
    if not isinstance(made, dict):
        raise ValueError(f"{factory} must return {form}, got {type(made).__name__}.")
    checks.options(factory, made, _TAKEN)
    if {"apply", "model"} <= made.keys():
        raise ValueError(f"{factory} must return apply or model, which are the same, not both.")
    needed = [] if "apply" in made else ["apply" if "variables" in made else "model"]
    needed += ["data", "loss"]
    if missing := [name for name in needed if name not in made]:
        raise ValueError(f"{factory} must return {form}; {missing[0]} is missing.")
    return dict(made)
