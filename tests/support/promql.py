"""Reads PromQL offline: which selectors an expression has, and which counters are seen otherwise than by a rate."""

import re

import promql_parser

VARIABLES = {
    "$__rate_interval": "5m",
    "$__interval": "1m",
    "$__range": "1h",
    "$job": ".+",
    "$instance": ".+",
    "$datasource": "prometheus",
}
OVER_TIME = {"rate", "increase", "irate", "resets"}


def interpolated(expr: str) -> str:
    """The expression as Grafana sends it when everything is selected."""
    for name, text in VARIABLES.items():
        expr = expr.replace(name, text)
    if "$" in expr:
        raise AssertionError(f"a variable that is not known: {expr}")
    return expr


def selectors(expr: str) -> list[tuple[str, dict[str, str]]]:
    """(metric, {label: value}) of each selector; raises ValueError where the expression can't be parsed."""
    found: list[tuple[str, dict[str, str]]] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name or "", {one.name: one.value for one in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def bare_counters(expr: str) -> list[str]:
    """Counters and histogram buckets that are not inside a rate or an increase."""
    plain = [name for name, _ in selectors(expr) if re.search(r"_(total|bucket|count|sum)$", name)]

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.Call) and node.func.name in OVER_TIME:
            for name, _ in selectors(node.prettify()):
                plain.remove(name)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return plain
