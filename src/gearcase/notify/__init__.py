"""Telling a person who is not there that a run waits for them, or is gone.

`page.py` is what is said, in two lines of our own words; `shapes.py` puts it as ntfy, Slack, PagerDuty or a program of one's own take it;
`targets.py` finds who is told, with their secrets; `pager.py` is the process of its own that sends, and that tells when the process of the
run is gone.
"""
