"""Videos made elsewhere: a folder of them, an external program, the published videos of other models."""
