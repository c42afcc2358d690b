"""What the generators of the Wan 2.1 family share: schedules, weight loading, reference preparation, the
network with reference tokens, and the one sampling loop. Nothing is registered here.
"""
