"""Integrations, one module each. They import the framework, never each other."""
