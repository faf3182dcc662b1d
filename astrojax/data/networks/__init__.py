"""Metabolic networks: from SBML to the reactions and compounds that many organisms share."""
