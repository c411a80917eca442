"""What the operators do, beside baselines, on the pocket models: one module for the runs, one for the page of docs/.

``python benchmarks/evidence/run.py NAME``; the names are in ``registry.py``.
"""
