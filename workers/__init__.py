"""Workers: claim jobs, run them through a model, store what comes out."""
