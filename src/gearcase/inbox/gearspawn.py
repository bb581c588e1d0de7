"""`gear spawn`, `wait`, `agents`, `result` and `stop` inside the box: asks the gear door, waits, shows what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[[str, dict[str, Any]], dict[str, Any]]


def run(operation: str, given: dict[str, Any], call: Call) -> tuple[dict[str, Any], int, str]:
    """(answer, exit status, the answer for a reader). Raises what `call` raises."""
    if operation == "spawn":
        return spawn(given, call)
    if operation == "wait":
        return wait(given, call)
    answer = call(operation, given)
    if operation == "agents":
        return answer, 0, "\n".join(tree(answer))
    return answer, 0, "\n".join(result(answer))


def spawn(given: dict[str, Any], call: Call) -> tuple[dict[str, Any], int, str]:
    """Begin one, and wait for it unless it goes on in the background."""
    background = given.pop("background")
    given["goal"] = " ".join(given["goal"])
    for key in ("doors", "branch"):
        if (listed := given.pop(key)) is not None:
            given[key] = [one.strip() for one in listed.split(",") if one.strip()]
    begun = call("spawn", given)
    if background:
        limits = ", ".join(f"{name} {value}" for name, value in begun["limits"].items())
        return begun, 0, f"{begun['agent']} is {begun['state']} ({limits}; {begun['files']} files); gear wait {begun['agent']}"
    told, code, text = wait({"agents": [begun["agent"]], "any": False}, call)
    return told["ended"][0], code, text


def wait(given: dict[str, Any], call: Call) -> tuple[dict[str, Any], int, str]:
    """Ask until they have ended; exit 0 when all that ended are done and passed."""
    told = call("wait", given)
    while not told["over"]:
        told = call("wait", {**given, "agents": told["agents"]})
    text = "\n".join(line for one in told["ended"] for line in result(one))
    if told["waiting"]:
        text += f"\nstill at work: {', '.join(told['waiting'])}"
    return told, 0 if told["passed"] else 1, text


def result(one: dict[str, Any]) -> list[str]:
    """A result for a reader."""
    lines = [f"{title(one)}: {ending(one)}"]
    check: dict[str, str] = one.get("check") or {}
    if check and check["verdict"] != "passed":
        lines += [f"  check: {check['reason'] or check['verdict']}", *printed(check["output"])]
        if check.get("hint"):
            lines.append(f"  hint: {check['hint']}")
    if one.get("note"):
        lines += indented("note", one["note"])
    if one.get("detail") and one["status"] not in ("done",):
        lines += indented("why", one["detail"])
    if spent := one.get("spent"):
        lines.append(
            "  spent: " + ", ".join(f"{name} {value} of {one['limits'].get(name, 'any')}" for name, value in spent.items())
        )
    if one.get("copied_count"):
        more = one["copied_count"] - len(one["copied"])
        lines.append(f"  copied into your files: {', '.join(one['copied'])}" + (f" and {more} more" if more > 0 else ""))
    lines += [f"  conflict: {found['path']}: you have changed it, its version is {found['beside']}" for found in conflicts(one)]
    lines += [f"  not judged good: {found['path']} lies at {found['beside']}" for found in rejected(one)]
    for name, changes in one.get("databases", {}).items():
        lines.append(f"  its {name}: {len(changes) or 'nothing'} changed")
        lines += [f"    {line}" for line in changes]
    lines += [f"  not copied: {found['path']}: {found['reason']}" for found in one.get("refused", [])]
    for ran in one.get("trace", []):
        lines.append(f"  $ {ran['command'].strip()}")
        lines.append(f"    {ran['ended']} {ran['exit']}")
        lines += printed(ran["output"])
    if one.get("how_to_go_on"):
        lines.append(f"  go on: {one['how_to_go_on']}")
    return lines


def conflicts(one: dict[str, Any]) -> list[dict[str, str]]:
    """What the parent had changed."""
    return [found for found in one.get("conflicts", []) if found["beside"].startswith("conflicts/")]


def rejected(one: dict[str, Any]) -> list[dict[str, str]]:
    """What its check did not pass."""
    return [found for found in one.get("conflicts", []) if found["beside"].startswith("rejected/")]


def tree(answer: dict[str, Any]) -> list[str]:
    """The agents below the caller, a line each."""
    lines: list[str] = []
    for one in answer["agents"]:
        first = answer["agents"][0]["depth"]
        spent = ", ".join(f"{name} {value} of {one['limits'].get(name, 'any')}" for name, value in one["spent"].items())
        steps = f", {one['steps']} answers" if one.get("steps") else ""
        lines.append(
            f"{'  ' * (one['depth'] - first)}{title(one)}: {ending(one)}{steps}{', ' if spent else ''}{spent}: {one['goal']}"
        )
        if one.get("last"):
            lines.append(f"{'  ' * (one['depth'] - first)}  $ {one['last']}")
    lines.append(f"{answer['at_work']} at work (at most {answer['at_once']}), {answer['left']} more may be spawned")
    return lines


def title(one: dict[str, Any]) -> str:
    """Its id, and its name where it has another."""
    return one["agent"] if one["name"] == one["agent"] else f"{one['agent']} {one['name']}"


def ending(one: dict[str, Any]) -> str:
    """How it stands or ended, and what its check said."""
    check: dict[str, str] = one.get("check") or {}
    limit = f" ({one['limit']})" if one.get("limit") else ""
    return one["status"] + limit + (f", check {check['verdict']}" if check else "")


def printed(output: str) -> list[str]:
    """The last lines of what a program printed, set apart from ours."""
    return [f"    | {line}" for line in output.splitlines()[-20:]]


def indented(word: str, text: str) -> list[str]:
    """A text of several lines below a word."""
    first, *more = text.strip().splitlines() or [""]
    return [f"  {word}: {first}", *(f"    {line}" for line in more[-20:])]
