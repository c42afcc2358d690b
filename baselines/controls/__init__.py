"""Control methods: simple videos that show which scores can be had without a generator. No model runs."""
