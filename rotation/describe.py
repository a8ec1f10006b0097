"""The decision table as Markdown, read from the rules themselves: docs/rotation.md cannot drift from them.

What runs is asked where it can be (the edges, the verbs); what a rule may answer is read from its source.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from rotation import decide, judge
from rotation.facts import STAGE_EDGES, TERMINAL, Snapshot, Stage, Verb
from rotation.policy import STANDARD

BEGIN = "<!-- decision table: written by `manage.py describe_rotation --write`, checked by a test -->"
END = "<!-- end of the decision table -->"

Rule = Callable[..., Any]


def markdown() -> str:
    """The block between the two marks, both included, without a line end."""
    parts = (
        BEGIN,
        "### Guards and stages",
        "The first guard that answers decides; then the function of the stage does.",
        _table(("Rule", "When", "What it may answer"), _decisions()),
        "### Moves",
        _table(("From", "To"), _edges()),
        "### The verdict, in order",
        "The first rule that matches answers.",
        _table(("#", "Rule", "Verdict"), _verdicts()),
        "### What a person may do",
        _table(("Stage", "Situation", "Verbs"), _verbs()),
        "### Why it stops and asks",
        _table(("Attention", "What it says", "Verbs that help"), _attentions()),
        END,
    )
    return "\n\n".join(parts)


def replaced(text: str) -> str:
    """This document with the block as the rules give it today. Raises ``ValueError`` without its marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("The document has no place for the decision table.")
    return f"{head}{markdown()}{tail}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


# Rules ---------------------------------------------------------------------------------------------


def _decisions() -> Iterator[tuple[str, str, str]]:
    for guard in in_order(decide.decide):
        yield f"guard: {_name(guard)}", _said(guard), _may_answer(guard)
    for stage, function in decide._STAGES.items():
        yield f"**{stage}**", _said(function), _may_answer(function)
    yield "after a rollback", _said(decide.clean_up), _may_answer(decide.clean_up)


def _edges() -> Iterator[tuple[str, str]]:
    for stage in Stage:
        after = [str(to) for to in Stage if (stage, to) in STAGE_EDGES]
        yield str(stage), ", ".join(after) or "finished, and never resumed"


def _verdicts() -> Iterator[tuple[str, str, str]]:
    """The lines of ``judge``'s own account, each with what the rule behind it may answer."""
    rules = in_order(judge.judge)
    told = _numbered(judge.judge)
    if len(told) < len(rules):
        raise ValueError("judge() does not tell of every rule.")
    for number, line in enumerate(told, 1):
        trees = [_tree(rules[number - 1])] if number <= len(rules) else [_tree(judge.judge)]
        found = {pair: None for tree in trees for pair in _verdict_pairs(tree, judge)}
        yield str(number), line, ", ".join(f"{kind}: `{code}`" for kind, code in found)


def in_order(function: Rule) -> list[Rule]:
    """The rules that a function tries one after the other: those its only ``for`` runs over."""
    module = sys.modules[function.__module__]
    loop = next(node for node in ast.walk(_tree(function)) if isinstance(node, ast.For))
    if isinstance(loop.iter, ast.Name):
        return list(getattr(module, loop.iter.id))
    if isinstance(loop.iter, ast.Tuple):
        return [getattr(module, item.id) for item in loop.iter.elts if isinstance(item, ast.Name)]
    raise ValueError(f"{function.__name__} has no list of rules.")


def _numbered(function: Rule) -> list[str]:
    """``1. ...`` lines of a docstring, in order; a line that goes on in the next is put together."""
    lines: list[str] = []
    for line in (inspect.getdoc(function) or "").splitlines():
        number, dot, text = line.partition(". ")
        if dot and number.isdecimal():
            lines.append(text)
        elif lines and line.startswith("   "):
            lines[-1] += f" {line.strip()}"
    return lines


def _name(function: Rule) -> str:
    return function.__name__.strip("_").replace("_", " ")


def _said(function: Rule) -> str:
    return " ".join((inspect.getdoc(function) or "").replace("``", "`").split())


# Source --------------------------------------------------------------------------------------------


@cache
def _tree(function: Rule) -> ast.FunctionDef:
    tree = ast.parse(inspect.getsource(function)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise ValueError(f"{function} is no function.")
    return tree


def _reached(tree: ast.FunctionDef, module: ModuleType, seen: dict[str, None]) -> Iterator[ast.FunctionDef]:
    """This function and every rule that it calls, each once. Rules in other modules are looked up there."""
    yield tree
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id in seen:
            continue
        called = getattr(module, node.func.id, None)
        if isinstance(called, FunctionType) and called.__module__.startswith("rotation."):
            seen[node.func.id] = None
            yield from _reached(_tree(called), sys.modules[called.__module__], seen)


def _calls(tree: ast.FunctionDef, module: ModuleType) -> Iterator[tuple[ast.Call, ast.FunctionDef]]:
    """Every call in a rule and in those that it calls, with the function in which it stands."""
    for function in _reached(tree, module, {}):
        nodes = (node for node in ast.walk(function) if isinstance(node, ast.Call))
        for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
            yield node, function


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _texts(node: ast.AST) -> list[str]:
    """The texts that an expression may come to, as far as they stand in it."""
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)]
    return []


def _member(node: ast.AST, enum: str) -> str:
    """``x`` of ``Stage.X``, and ``…`` for anything that is only known when it runs."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == enum:
        return node.attr.lower()
    return "…"


def _may_answer(function: Rule) -> str:
    """The actions that stand in a rule and in those that it calls, in the order of the source."""
    found: dict[str, dict[str, None]] = {}
    for node, _ in _calls(_tree(function), sys.modules[function.__module__]):
        match _called(node):
            case "Enter":
                kind, what = "enter", [_member(node.args[0], "Stage")]
            case "Call":
                sides = [_member(node.args[1], "Side")]
                kind, what = "call", [f"{_member(node.args[0], 'Kind')} {side}" for side in sides]
            case "SetWeight":
                kind, what = "set the weight", [""]
            case "Rollback":
                kind, what = "roll back", [""]
            case "Attention":
                kind, what = "ask", [f"`{text}`" for text in _texts(node.args[0])]
            case _:
                codes = [word.value for word in node.keywords if word.arg == "code"]
                kind, what = "wait", [f"`{text}`" for code in codes for text in _texts(code) if text]
                if not what and _called(node) != "Wait":
                    continue
        found.setdefault(kind, {}).update(dict.fromkeys(what))
    return "; ".join(_listed(kind, [text for text in what if text]) for kind, what in found.items())


def _listed(kind: str, what: Sequence[str]) -> str:
    shown = [text.replace(" …", "") for text in what]
    return f"{kind} ({', '.join(shown)})" if shown else kind


def _verdict_pairs(tree: ast.FunctionDef, module: ModuleType) -> Iterator[tuple[str, str]]:
    for node, _ in _calls(tree, module):
        if _called(node) == "Verdict":
            for kind in _texts(node.args[0]):
                for code in _texts(node.args[1]):
                    yield kind, code


# People --------------------------------------------------------------------------------------------


def _verbs() -> Iterator[tuple[str, str, str]]:
    """Asked of ``allowed_verbs`` itself, for every stage and what may be the case there."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for stage in Stage:
        plain = Snapshot(stage, STANDARD, 0, 0, now, now, now, now)
        usual = _allowed(plain)
        yield str(stage), "finished" if stage in TERMINAL else "goes on", _shown(usual)
        for situation, snapshot, wants in _situations(plain):
            verbs = _allowed(snapshot, wants_approval=wants)
            if verbs != usual:
                yield "", situation, _shown(verbs)


def _situations(plain: Snapshot) -> Iterator[tuple[str, Snapshot, bool]]:
    yield "waits for an approval", plain, True
    yield "paused", replace(plain, paused=True), False
    yield "asks for a person", replace(plain, attention="a code"), False
    yield "the new key is held", replace(plain, incoming_held=True), False
    yield "abort was asked", replace(plain, abort_asked=True), False
    yield "there is no outgoing key", replace(plain, has_outgoing=False, outgoing_active=False), False
    if plain.stage in (Stage.DEPLOY, Stage.REVOKE):
        yield "the revoke was asked", replace(plain, revoke_asked=True), False


def _allowed(snapshot: Snapshot, *, wants_approval: bool = False) -> tuple[Verb, ...]:
    return decide.allowed_verbs(snapshot, (), wants_approval=wants_approval)


def _shown(verbs: Iterable[Verb]) -> str:
    return ", ".join(str(verb) for verb in verbs) or "none"


def _attentions() -> Iterator[tuple[str, str, str]]:
    """Every attention that stands in the rules; one that is raised in several places stands once."""
    texts: dict[str, dict[str, None]] = {}
    verbs: dict[str, dict[str, None]] = {}
    for function in (decide.decide, *in_order(decide.decide), *decide._STAGES.values(), decide.clean_up):
        for node, place in _calls(_tree(function), sys.modules[function.__module__]):
            if _called(node) != "Attention":
                continue
            code, reason, helpful = node.args
            name = ", ".join(f"`{text}`" for text in _texts(code))
            if isinstance(code, ast.BoolOp):
                name += " or what the call came to"
            texts.setdefault(name, {}).update(dict.fromkeys(_texts(reason) or ["what the provider said"]))
            verbs.setdefault(name, {}).update(dict.fromkeys(_verbs_in(helpful, place)))
    for name in sorted(texts):
        yield name, " / ".join(texts[name]), ", ".join(verbs[name])


def _verbs_in(node: ast.AST, place: ast.FunctionDef) -> list[str]:
    """The verbs in a tuple, which may have a name of its own in the function."""
    if isinstance(node, ast.Name):
        named: Mapping[str, ast.AST] = {
            target.id: line.value
            for line in ast.walk(place)
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
        node = named[node.id]
    if not isinstance(node, ast.Tuple):
        raise ValueError(f"{place.name} asks without verbs that can be read.")
    return [str(Verb[_member(item, "Verb").upper()]) for item in node.elts]
