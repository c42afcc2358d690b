"""The attack in small: killed commands, damaged files, special files and misbehaving judges.

`tests/attack.py` runs them and prints counts; `tests/test_attack.py` runs a few of each.
"""
