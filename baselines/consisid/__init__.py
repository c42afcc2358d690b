"""ConsisID on CogVideoX-5B: the method, its sampling, and how the face of a reference is read."""
