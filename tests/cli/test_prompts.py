"""What `gearcase prompts` draws."""

from gearcase.cli.prompts import _Prompts, _shown
from gearcase.events import MapStarted, PromptTried


def tried(parent, prompt, decision, looks):
    place = {"stage": "", "code": "not_json"}
    return PromptTried("m1", parent, prompt, f"say {prompt}", "lead", place, 9, [1, 2], 1, "", looks, [], decision, "", 7, "gepa")


def test_what_a_search_found_stands_below_its_parent_though_that_was_refused():
    started = MapStarted("m1", "first", "say it", "small", "lines:1", 9, 4, 0)
    events = [tried("half", "whole", "cluster", [[4, 4], [4, 4]]), tried("first", "half", "refused", [[2, 4], [1, 4]])]
    texts = {"first": "say it", "half": "say half", "whole": "say whole"}
    shown = [str(getattr(line, "renderable", line)) for line in _shown(_Prompts(started, texts, events))]
    names = [line.strip().split()[0] for line in shown if line.strip().split()[:1] and line.strip().split()[0] in texts]
    assert names == ["half", "whole"] and not any("earlier map" in line for line in shown)
    assert "-say half" in shown and any("gepa" in line for line in shown)
