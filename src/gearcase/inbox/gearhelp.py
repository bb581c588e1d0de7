"""What `gear help`, `gear help COMMAND` and `gear COMMAND --help` say. Loaded when somebody asks, so that `gear` itself starts fast."""

from __future__ import annotations

OVERVIEW = """\
gear: what an agent and its programs can ask of their box.

gear status                                limits, what is spent, time left, deliverables, checks
gear doors                                 the names that can be reached from here
gear ask [--model M] [--system TEXT] [--schema FILE] [--max-output N] PROMPT|-
                                           one model call, paid from the budget; - reads the prompt from standard input
gear map --over FILE... --split lines:N|records:N|rowgroups|file|bytes:N (--prompt FILE | --run CMD) --out DIR
         [--model M] [--schema FILE] [--validator CMD] [--give PATH...] [--deadline SECONDS] [--concurrency N]
         [--max-output N] [--allow-failed N] [--max-failure-rate 0.5] [--no-canary] [--format jsonl|parquet]
                                           the prompt over every item, a model call each, or a command in a fresh sandbox each;
                                           the same command again pays for nothing twice
gear reduce --over FILE... (--prompt FILE | --run CMD) --out DIR [--fan-in N] [--split lines:1] [and as for map]
                                           groups of N inputs to one, again and again, until one is left
gear spawn [--name N] [--model M] [--usd X] [--tokens N] [--calls N] [--steps N] [--wall 10m] [--egress 1MiB]
           [--give PATH]... [--take PATTERN]... [--into DIR] [--doors a,b|none] [--branch DATABASE,...] [--check CMD]
           [--background] GOAL
gear spawn --again ID [...] GOAL           a sub-agent on a copy of your files, paid from your budget; waits and prints its result
gear wait [ID...] [--any]                  wait for sub-agents; exit 0 when all are done and their checks passed
gear agents                                the sub-agents below you
gear tell ID|parent TEXT                   a note for its next turn
gear stop ID                               end one and those below it
gear result ID [--trace]                   how it ended, or how far it is; --trace: its last commands
gear check [NAME]                          run the acceptance checks now, on a copy of the deliverables
gear snapshot [--note TEXT]                keep the present state of /workspace
gear rewind [SNAPSHOT]                     return to one; without a name: list them
gear context show | drop ID... | note TEXT see and shrink what the agent remembers
gear ask-for net|usd|time|egress|tokens|calls|other WHAT --why TEXT [--no-wait]
                                           ask the operator for a host, money, time, more of a limit; waits for the answer
gear requests                              what was asked for, and the answers
gear done [--note TEXT] [--as-is]          hand in; the checks run, --as-is hands in whatever they say,
                                           with the note of the last time where none is given

gear COMMAND --help                        each option of one of these in a line

--json anywhere prints the answer as JSON. The same as an HTTP API: /box/openapi.json
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the door cannot be reached, 4 the answer cannot be written.
"""

_LIMIT = "a quarter of what you have free, unless told"
_MAP = """\
  --prompt FILE          what is asked of each {item}, a model call each; it stands where the prompt says {{item}}, else below it
  --run CMD              instead: a command that answers each, in a fresh sandbox without doors; no model cost
  --out DIR              where the answers and account.json go; the same command again goes on there and pays for nothing twice
  --model M              another model that the box allows; without it the worker
  --schema FILE          a JSON Schema that each answer must fit, as a file or as the text itself; without it an answer is text
  --validator CMD        judges each answer: JSON on standard input, the item in $ITEM, exit 0 is good
  --give PATH...         more files of /workspace that these commands see, read-only
  --deadline SECONDS     of one command; 60
  --concurrency N        calls at a time; 16, at most 512
  --max-output N         tokens of an answer; 4096. A small number lets more run at once
  --allow-failed N       exit 0 though so many have no answer
"""

COMMANDS = {
    "status": "gear status\n  What is limited, what is spent, free and set aside, time left, deliverables, checks.\n",
    "doors": "gear doors\n  The names and hosts that can be reached from here, and what for.\n",
    "ask": """\
gear ask [OPTION...] PROMPT
gear ask [OPTION...] -       the prompt is standard input
  One model call, paid from the budget; prints the answer.

  --model M          another model that the box allows; without it the worker
  --system TEXT      instructions beside the prompt
  --schema FILE      a JSON Schema that the answer must fit, as a file or as the text itself; then the answer is JSON
  --max-output N     tokens of the answer, at most
""",
    "map": """\
gear map --over FILE... --split HOW (--prompt FILE | --run CMD) --out DIR [OPTION...]
  The same to every item of the files. A canary of 20 shows first what all would cost and how they fail (DIR/account.json).

  --over FILE...         the files; their order and that of their lines is the order of items
  --split HOW            lines:N | records:N (JSON lines, CSV, TSV, Parquet) | rowgroups (Parquet) | file | bytes:N
"""
    + _MAP.format(item="item")
    + """\
  --no-canary            ask all of them at once
  --max-failure-rate R   of the canary; 0.5. Above it the rest is not asked
  --no-repair            leave the prompt as it is, however many fail alike
  --repair-model M       who rewrites the prompt; without it the lead's model
  --optimizer gepa       search for the prompt with the package gepa, of the host: more rewrites and calls for each kind of failure
  --format F             jsonl | parquet; jsonl
""",
    "reduce": """\
gear reduce --over FILE... (--prompt FILE | --run CMD) --out DIR [OPTION...]
  Groups of inputs to one, again and again, until one is left: DIR/result.txt, or result.json with a schema.

  --over FILE...         the files; a line of a map's results.jsonl stands for its answer
  --split HOW            what one input is: lines:N, records:N, file, ...; lines:1
  --fan-in N             inputs of a group; 8
"""
    + _MAP.format(item="group"),
    "spawn": f"""\
gear spawn [OPTION...] GOAL
gear spawn --again ID [OPTION...] GOAL
  Another agent in a box of its own, on a copy of your files, paid from your budget. Waits, prints the result, and its files come back;
  exit 0 if it is done and its check passed. A file that you changed meanwhile is not overwritten: its version goes to conflicts/ID.

  --usd X                its money; {_LIMIT}. What it leaves comes back
  --tokens N             its tokens; {_LIMIT}, where yours are limited
  --calls N              its model calls; {_LIMIT}, where yours are limited
  --egress SIZE          its bytes to the outside, 1MiB; {_LIMIT}. None with --doors none
  --steps N              its answers, at most yours
  --wall TIME            its time, 10m, at most yours
  --give PATH            only these of your files go in, paths and patterns, more than once; without it all
  --take PATTERN         what comes back, more than once; without it everything that it changed
  --into DIR             it comes back below this folder
  --check CMD            judges what it hands in: runs in /workspace on a copy of all your files of now, without doors; what the agent
                         hands in lies below $DELIVERED (quote it: '$DELIVERED'). If it fails, that goes to rejected/ID and no further
  --again ID             the order of that one once more (give, take, limits, check, name) and what it left in rejected/ID, with this goal
                         and what else you say anew: --again ID --check 'BETTER CHECK' GOAL
  --doors A,B            no more than these of yours: ids from gear doors, secrets.NAME, hosts, http for all hosts.
                         none: no door and no host; model.box and gear.box stay
  --branch DB,...        it has a copy of these databases of its own
  --model M              another model that the box allows; without it yours
  --name NAME            a name beside its id
  --background           do not wait: gear wait does
""",
    "wait": """\
gear wait [ID...] [--any]
  Wait for these sub-agents, or all that nobody waited for, and print their results; exit 0 when all are done and their checks passed.

  --any    until one of them has ended
""",
    "agents": "gear agents\n  The sub-agents below you as a tree: how each stands or ended, what it spent, its last command.\n",
    "tell": """\
gear tell ID TEXT
gear tell parent TEXT
  A note for the next turn of a sub-agent of yours, or of your parent; 4000 characters at most.
""",
    "stop": "gear stop ID\n  End a sub-agent and those below it; prints its result.\n",
    "result": """\
gear result ID [--trace]
  How a sub-agent ended, what its check printed, what came back, and how to go on; or how far it is.

  --trace    its last commands and what they printed
""",
    "check": """\
gear check [NAME]
  Run the acceptance checks now, or the one of that name, on a copy of the deliverables. They run outside of your reach, 20 times at most.
""",
    "snapshot": "gear snapshot [OPTION]\n  Keep the present state of /workspace.\n\n  --note TEXT    what for\n",
    "rewind": "gear rewind [SNAPSHOT]\n  Return /workspace to a snapshot; without a name: list them. The state before is kept, too.\n",
    "context": """\
gear context [show]          what you remember, with numbers
gear context drop ID...      forget these; they stay in /box/history
gear context note TEXT       remember this, whatever is dropped
""",
    "ask-for": """\
gear ask-for net|usd|time|egress|tokens|calls|other WHAT --why TEXT [--no-wait]
  Ask the operator for a host (net), money, time or more of a limit; waits for the answer.

  --why TEXT     what it is needed for
  --no-wait      go on; gear requests shows the answer
""",
    "requests": "gear requests\n  What was asked for, and the answers.\n",
    "done": """\
gear done [OPTION...]
  Hand in. The checks run; where one does not pass, nothing is handed in and its verdict is shown.

  --note TEXT    for whoever gets the work: what it is, what is missing
  --as-is        hand in whatever the checks say, with the note of the last refusal where none is given
""",
}


def explain(command: str) -> str | None:
    """The help of one command, or of all; None where there is no such command."""
    if not command:
        return OVERVIEW.rstrip()
    text = COMMANDS.get(command)
    return f"{text.rstrip()}\n\n  --json prints the answer as JSON." if text else None
