"""The networks of the Wan family, and how each method encodes its references into their inputs."""
