"""What chemistry forbids: formulas, balances of reactions, valences of atoms."""
