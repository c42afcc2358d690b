"""People's votes: pairs of videos shown blindly, the answers as a file, and what the answers say."""
