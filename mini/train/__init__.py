"""Training of the small networks in the drawn world: `loop` is shared, each other module is one network.

A part is trained from seeds alone, resumes in the middle, and ends as a checkpoint in the real format.
"""
