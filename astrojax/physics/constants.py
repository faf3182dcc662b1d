"""Physical constants, in SI units."""

# J mol-1 K-1. CODATA 2018, exact.
MOLAR_GAS_CONSTANT = 8.31446261815324

# W m-2 K-4. CODATA 2018, exact to the digits given.
STEFAN_BOLTZMANN = 5.670374419e-8

# kg mol-1. IUPAC 2021 standard atomic weights.
MOLAR_MASS_N2 = 28.014e-3
MOLAR_MASS_CO2 = 44.009e-3
MOLAR_MASS_H2O = 18.015e-3

# J kg-1 K-1.
GAS_CONSTANT_N2 = MOLAR_GAS_CONSTANT / MOLAR_MASS_N2
GAS_CONSTANT_H2O = MOLAR_GAS_CONSTANT / MOLAR_MASS_H2O

# 1. Gas constant over heat capacity at constant pressure of an ideal gas of linear diatomic molecules.
KAPPA_DIATOMIC = 2 / 7

# K. Triple point of water: ice below, liquid above. BIPM, The International System of Units (2006), 2.1.1.5.
TRIPLE_POINT = 273.16

# Pa. To which potential temperature refers: Glossary of Meteorology, American Meteorological Society.
REFERENCE_PRESSURE = 1e5

# s. That in which rotation periods are given, whatever a planet's own day.
SECONDS_PER_DAY = 86_400.0
