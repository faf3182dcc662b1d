"""The physics of a climate cube: geometry, thermodynamics, insolation and constraints.

Nothing else in the code computes a cell area, a regridding weight or a constraint.
"""
