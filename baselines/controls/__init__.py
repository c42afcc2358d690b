"""Control methods: videos whose scores say what a score is worth. No model runs."""
