"""Mutation testing of the code that decides; see ``__main__``."""
