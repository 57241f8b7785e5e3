"""A toy model: what somebody would write to add one. `python tests/toy/run.py DOOR` serves it beside ours."""
