"""Dense model families, each built as a trunk: stem, blocks and head.

`trunk.py` holds what all families share (State, Trunk, swap); one file per family and part.
"""
