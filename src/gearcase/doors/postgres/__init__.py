"""The postgres door: a database of the box's own, fresh or a copy, or a look at a live one."""
