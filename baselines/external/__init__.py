"""Videos made elsewhere: a folder, a program of one's own, the published videos of a closed model."""
