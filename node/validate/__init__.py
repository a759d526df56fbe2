"""The validation run: promises, figures and report of the virtual reading study and of the solvers' scores."""
