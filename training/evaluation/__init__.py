"""How well the demo weights draw what they are told, part by part; `training.evaluate` is the door.

`cases.py` says what is asked for, with fixed seeds; `studio.py` makes the pictures, as users make them, and
keeps them; `bench.py` reads them and writes tables and sheets (`sheets.py`). `autoencoder.py`, `prompts.py`,
`weights.py` and `edits.py` each hold one part.
"""
