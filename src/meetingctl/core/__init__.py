"""Values and rules that every part shares. Imports the standard library only."""
