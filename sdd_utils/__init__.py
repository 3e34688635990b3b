"""Sparse double descent: prune, retrain, measure. Start reading at ``experiment.run_experiment``."""
