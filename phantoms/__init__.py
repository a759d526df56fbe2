"""Numerical phantoms: a head whose susceptibility is known, its simulated acquisition, its export and its scores."""
